"""What a Docker Engine leaves on its host, recorded before one is started and taken back after it stopped.

In: nothing. Out: `snapshot()`, a JSON value; `restore(snapshot)` removes docker's own links, chains and mounts that were not there
then, and puts back the sysctls and policies it changed. Rules of anyone else are never touched: a chain or a table that
existed before, or that holds more than docker's chains, stays.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/default/forwarding",
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
)
LINK = "docker0"
DATA_ROOT = "/var/lib/docker"
_TOOLS = ("iptables", "ip6tables")


def snapshot() -> dict[str, Any]:
    """What is there now, of the things docker changes."""
    return {
        "sysctls": {name: value for name in SYSCTLS if (value := _sysctl(name)) is not None},
        "link": Path(f"/sys/class/net/{LINK}").exists(),
        "mounted": _mounted(DATA_ROOT),
        "rules": {tool: _run(f"{tool}-save") for tool in _TOOLS},
        "tables": sorted(_nft_tables()),
    }


def restore(before: dict[str, Any]) -> None:
    """Takes back what an engine that has ended left behind."""
    if not before["link"] and Path(f"/sys/class/net/{LINK}").exists():
        _run("ip", "link", "delete", LINK)
    if not before["mounted"] and _mounted(DATA_ROOT):
        _run("umount", DATA_ROOT)
    for tool in _TOOLS:
        for command in undo_rules(before["rules"][tool], _run(f"{tool}-save")):
            _run(tool, "--wait", *command)
    for family, table in set(_nft_tables()) - {(family, table) for family, table in before["tables"]}:
        # iptables makes its tables when first used; once empty again they are as good as absent, and now are.
        if family in {"ip", "ip6"} and " --" not in _without_comments(_run("nft", "list", "table", family, table)):
            _run("nft", "delete", "table", family, table)
    for name, value in before["sysctls"].items():
        if _sysctl(name) not in {value, None}:
            (Path("/proc/sys") / name).write_text(value)


def undo_rules(before: str, now: str) -> list[list[str]]:
    """The iptables commands that lead from `now` back to `before`, for rules and chains of docker's own."""
    earlier, later = _parse(before), _parse(now)
    commands: list[list[str]] = []
    for table, (chains, rules) in later.items():
        chains_before, rules_before = earlier.get(table, ({}, []))
        gone = [name for name in chains if name.startswith("DOCKER") and name not in chains_before]
        for rule in rules:
            chain = rule.split()[1]
            if chain not in gone and rule not in rules_before and re.search(r"\b(DOCKER\S*|docker0)", rule):
                commands.append(["-t", table, "-D", *rule.split()[1:]])
        commands += [["-t", table, "-F", name] for name in gone]
        commands += [["-t", table, "-X", name] for name in gone]
        for name, policy in chains.items():
            if policy != "-" and policy != chains_before.get(name, "ACCEPT"):
                commands.append(["-t", table, "-P", name, chains_before.get(name, "ACCEPT")])
    return commands


def _parse(dump: str) -> dict[str, tuple[dict[str, str], list[str]]]:
    """iptables-save's text as table → (chain → policy, rules)."""
    tables: dict[str, tuple[dict[str, str], list[str]]] = {}
    for line in dump.splitlines():
        if line.startswith("*"):
            table: tuple[dict[str, str], list[str]] = ({}, [])
            tables[line[1:]] = table
        elif line.startswith(":"):
            name, policy = line[1:].split()[:2]
            table[0][name] = policy
        elif line.startswith("-A"):
            table[1].append(line)
    return tables


def _without_comments(listing: str) -> str:
    return "\n".join(line for line in listing.splitlines() if not line.lstrip().startswith("#"))


def _nft_tables() -> list[tuple[str, str]]:
    listing = json.loads(_run("nft", "-j", "list", "tables") or '{"nftables": []}')
    return [(item["table"]["family"], item["table"]["name"]) for item in listing["nftables"] if "table" in item]


def _sysctl(name: str) -> str | None:
    try:
        return (Path("/proc/sys") / name).read_text().strip()
    except OSError:
        return None


def _mounted(path: str) -> bool:
    return any(line.split()[4] == path for line in Path("/proc/self/mountinfo").read_text().splitlines())


def _run(*command: str) -> str:
    """A command's output; empty when it fails or is not installed, since restoring goes as far as it can."""
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
