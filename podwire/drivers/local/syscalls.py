"""The few system calls that Python 3.11 has no names for: mounts, process controls, and entering a user namespace.

In: paths and flags. Out: nothing, or OSError / Unsupported with one sentence on what this machine does not allow.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from pathlib import Path

from nodeagent.kernel.netns import CLONE_NEWNET, unshare
from podwire.errors import Unsupported

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000

MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x2, 0x4, 0x8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 1, 15, 36
_libc = ctypes.CDLL(None, use_errno=True)

__all__ = ["CLONE_NEWNET", "unshare"]


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2); raises OSError that names the target."""
    if _libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, data.encode() or None):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def _prctl(option: int, argument: ctypes.c_ulong | bytes) -> None:
    if _libc.prctl(option, argument, 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def die_with_parent() -> None:
    """The kernel kills the calling process when its parent ends: nothing of a cluster outlives its supervisor."""
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))


def become_subreaper() -> None:
    """Orphans below the calling process become its children."""
    _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))


def set_process_name(name: str) -> None:
    """What `ps -o comm` shows; 15 characters."""
    _prctl(_PR_SET_NAME, name.encode()[:15])


def enter_private_namespaces() -> None:
    """Gives the calling process network and mount namespaces of its own, and first a user namespace where it has not the right.
    Only for a process without threads. Raises Unsupported.
    """
    try:
        unshare(CLONE_NEWNS | CLONE_NEWNET)
    except PermissionError:
        _enter_user_namespace()
        try:
            unshare(CLONE_NEWNS | CLONE_NEWNET)
        except OSError as error:
            raise _refused(error) from error
    mount("none", "/", flags=MS_REC | MS_PRIVATE)


def _enter_user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    try:
        unshare(CLONE_NEWUSER)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    except OSError as error:
        raise _refused(error) from error


def _refused(error: OSError) -> Unsupported:
    reason = error.strerror
    if error.errno == errno.ENOSPC:
        reason = "their number is limited"
        hint = "raise the limit: sudo sysctl user.max_user_namespaces=15000"
    elif _setting("kernel/apparmor_restrict_unprivileged_userns") == "1":
        hint = "run as root, or allow them: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    elif _setting("kernel/unprivileged_userns_clone") == "0":
        hint = "run as root, or allow them: sudo sysctl kernel.unprivileged_userns_clone=1"
    else:
        hint = "run as root, or use the docker driver"
    return Unsupported(
        f"the local driver needs root or user namespaces, and this kernel refuses them here ({reason})", hint=hint
    )


def _setting(name: str) -> str:
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return ""
