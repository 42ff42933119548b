"""Becomes a user without rights and runs a program: `python nobody.py [--no-user-namespaces] [--readable PATH]… -- PROGRAM ARGUMENT…`.

In: a process of root (of anybody else: nothing is to be given up). Out: the program, as uid 65534, in a mount namespace in which the
interpreter and the checkout can be read wherever they are: also below a home directory that is closed to others. With
`--no-user-namespaces` the program lives where the limit for new ones is zero, as an administrator may have set it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from podwire.drivers.local import syscalls

NOBODY = 65534
OTHERS_MAY_PASS = 0o001


def main() -> None:
    parser = argparse.ArgumentParser(prog="nobody")
    parser.add_argument("--no-user-namespaces", action="store_true")
    parser.add_argument("--readable", action="append", type=Path, default=[], help="a directory that must be readable")
    parser.add_argument("command", nargs="+")
    values = parser.parse_args()
    if os.geteuid() == 0:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
        expose([path.resolve() for path in values.readable])
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os.execv(sys.executable, [sys.executable, *sys.argv])  # until then its files in /proc stay root's
    if values.no_user_namespaces:
        forbid_user_namespaces(os.geteuid(), os.getegid())
    os.chdir("/")
    os.execvp(values.command[0], values.command)


def expose(paths: Sequence[Path]) -> None:
    """Mounts these directories over empty parents where a parent is closed to others."""
    held = [(path, os.open(path, os.O_PATH)) for path in paths]
    for path, directory in held:
        closed = [parent for parent in reversed(path.parents) if not parent.stat().st_mode & OTHERS_MAY_PASS]
        if closed:
            syscalls.mount("tmpfs", str(closed[0]), "tmpfs", 0, "mode=0755")
        if closed or not path.exists():  # or it lies below a parent that was covered just now
            path.mkdir(parents=True, exist_ok=True)
            syscalls.mount(f"/proc/self/fd/{directory}", str(path), flags=syscalls.MS_BIND | syscalls.MS_REC)
        os.close(directory)


def forbid_user_namespaces(uid: int, gid: int) -> None:
    """A user namespace that allows none below it, and in which this user is no root: its capabilities go with exec."""
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/sys/user/max_user_namespaces").write_text("0")


if __name__ == "__main__":
    main()
