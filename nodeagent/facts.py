"""Facts about the node that the agent runs in: which start of it this is, and with which privileges.

In: /proc. Out: a boot ID and a word. Read once at the agent's start.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

CAP_SYS_MODULE = 16  # linux/capability.h: in the bounding set of privileged containers only
WHOLE_USER_RANGE = ["0", "0", "4294967295"]


def boot_id(proc: Path = Path("/proc")) -> str:
    """A string that changes with every start of the node: the machine's boot, the PID namespace, and when its PID 1 began."""
    machine = (proc / "sys/kernel/random/boot_id").read_text().strip()
    namespace = (proc / "self/ns/pid").stat().st_ino
    # Field 22 of stat counts from after the command's closing parenthesis, because the command may hold spaces.
    started = (proc / "1/stat").read_text().rpartition(")")[2].split()[19]
    return hashlib.sha256(f"{machine} {namespace} {started}".encode()).hexdigest()[:32]


def privileges(proc: Path = Path("/proc")) -> str:
    """How much the node may do: "privileged", "restricted" or "user-namespace"."""
    if (proc / "self/uid_map").read_text().split() != WHOLE_USER_RANGE:
        return "user-namespace"
    for line in (proc / "self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return "privileged" if int(line.split()[1], 16) >> CAP_SYS_MODULE & 1 else "restricted"
    return "restricted"
