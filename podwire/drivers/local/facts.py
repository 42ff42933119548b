"""What the local driver needs of this machine, found by trying it.

In: nothing. Out: `Fact`s for `doctor`. The attempt is made in a child process that enters namespaces as a supervisor would, so that the
answers are those that a cluster would meet, as this user, and nothing of the attempt stays.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodeagent.kernel import probe
from podwire.drivers.base import Fact
from podwire.drivers.local import syscalls
from podwire.drivers.local.driver import helper_program
from podwire.errors import PodwireError, Unsupported

ATTEMPT_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class _Part:
    """A capability of the kernel: the module that brings it, the option it is built with, and what it is for."""

    module: str
    option: str
    needed: bool = False  # a cluster does not work without it
    remark: str = ""


_PARTS = {
    "bridge": _Part("bridge", "CONFIG_BRIDGE", needed=True),
    "vxlan": _Part("vxlan", "CONFIG_VXLAN", needed=True),
    "nft-ip": _Part("nf_tables", "CONFIG_NF_TABLES_IPV4, CONFIG_NFT_MASQ and CONFIG_NFT_FIB_IPV4", needed=True),
    "nft-bridge": _Part("nf_tables", "CONFIG_NF_TABLES_BRIDGE", needed=True, remark="or `network: {guard: false}`"),
    "nft-ip6": _Part(
        "nf_tables", "CONFIG_NF_TABLES_IPV6, CONFIG_NFT_MASQ and CONFIG_NFT_FIB_IPV6", remark="needed for dual stack"
    ),
    "bridge-nf": _Part("br_netfilter", "CONFIG_BRIDGE_NETFILTER", remark="Services will need it"),
    "sctp": _Part("sctp", "CONFIG_IP_SCTP"),
    "wireguard": _Part("wireguard", "CONFIG_WIREGUARD"),
    "netem": _Part("sch_netem", "CONFIG_NET_SCH_NETEM", remark="needed to impair links"),
}
_OTHER_FIXES = {"ipv6": "boot without ipv6.disable=1; needed for dual stack"}


def collect() -> list[Fact]:
    """All facts, the necessary ones first."""
    return [_helper(), *_namespaces()]


def _helper() -> Fact:
    try:
        return Fact("podwire-helper", str(helper_program()), ok=True)
    except PodwireError as error:
        return Fact("podwire-helper", error.message, ok=False, fix=error.hint)


def _namespaces() -> list[Fact]:
    answer = _in_child()
    if "refused" in answer:
        return [Fact("namespaces", answer["refused"], ok=False, fix=answer["hint"])]
    who = "as root" if answer["root"] else "in a user namespace"
    facts = [Fact("namespaces", who, ok=True)]
    for name, (available, detail) in sorted(answer["capabilities"].items(), key=lambda item: not _needed(item[0])):
        needed = _needed(name)
        value = ("yes" if available else "no" if needed else "no (optional)") + (f": {detail}" if detail else "")
        facts.append(
            Fact(f"kernel: {name}", value, ok=available or not needed, fix="" if available else fix(name, _modules()))
        )
    return facts


def fix(name: str, modules: str) -> str:
    """What gives this kernel a capability; `modules` is the list of its loadable modules (modules.dep)."""
    part = _PARTS.get(name)
    if part is None:
        return _OTHER_FIXES.get(name, "")
    if f"/{part.module}.ko" in modules:
        remedy = f"load the module: sudo modprobe {part.module}"
    else:
        remedy = f"this kernel has no module {part.module}: boot one that is built with {part.option}"
    return f"{remedy}; {part.remark}" if part.remark else remedy


def _modules() -> str:
    try:
        return Path("/lib/modules", platform.release(), "modules.dep").read_text()
    except OSError:  # everything is built in, or the modules are on another machine's disk
        return ""


def _needed(name: str) -> bool:
    return name in _PARTS and _PARTS[name].needed


def _in_child() -> dict[str, Any]:
    command = [sys.executable, "-P", "-m", "podwire.drivers.local.facts"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ATTEMPT_TIMEOUT_S)
    if done.returncode or not done.stdout:
        return {"refused": done.stderr.strip().rpartition("\n")[2] or "the attempt ended without an answer", "hint": ""}
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def main() -> None:
    """The child: enters namespaces and prints what works there."""
    root = os.geteuid() == 0
    try:
        syscalls.enter_private_namespaces()
        answer: dict[str, Any] = {"root": root, "capabilities": probe.capabilities()}
    except Unsupported as error:
        answer = {"refused": error.message, "hint": error.hint}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
