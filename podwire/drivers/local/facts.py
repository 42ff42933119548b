"""What the local driver needs of this machine, found by trying it.

In: nothing. Out: `Fact`s for `doctor`. The attempt is made in a child process that enters namespaces as a supervisor would, so that the
answers are those that a cluster would meet, as this user, and nothing of the attempt stays.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from nodeagent.kernel import probe
from podwire.drivers.base import Fact
from podwire.drivers.local import syscalls
from podwire.drivers.local.driver import helper_program
from podwire.errors import PodwireError, Unsupported

ATTEMPT_TIMEOUT_S = 30.0

# What a capability of the kernel is for, whether a cluster works without it, and how to get it.
_FIXES = {
    "bridge": (True, "load the module: modprobe bridge"),
    "vxlan": (True, "load the module: modprobe vxlan"),
    "nft-ip": (True, "load the module: modprobe nf_tables"),
    "nft-bridge": (True, "load the module: modprobe nf_tables; until then use `network: {guard: false}`"),
    "nft-ip6": (False, "load the module: modprobe nf_tables; needed for dual stack"),
    "bridge-nf": (False, "load the module: modprobe br_netfilter; Services will need it"),
    "ipv6": (False, "boot without ipv6.disable=1; needed for dual stack"),
    "sctp": (False, "load the module: modprobe sctp"),
    "wireguard": (False, "load the module: modprobe wireguard"),
    "netem": (False, "load the module: modprobe sch_netem; needed to impair links"),
}


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
    for name, (available, detail) in sorted(
        answer["capabilities"].items(), key=lambda item: _needed(item[0]), reverse=True
    ):
        needed, fix = _FIXES.get(name, (False, ""))
        value = ("yes" if available else "no" if needed else "no (optional)") + (f": {detail}" if detail else "")
        facts.append(Fact(f"kernel: {name}", value, ok=available or not needed, fix="" if available else fix))
    return facts


def _needed(name: str) -> bool:
    return _FIXES.get(name, (False, ""))[0]


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
