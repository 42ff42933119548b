"""Kernel settings of the network namespace the calling thread is in.

In: paths below /proc/sys, such as `net/ipv4/ip_forward`. Out: their values; None where this kernel or this link has no such setting.
"""

from __future__ import annotations

import errno
from pathlib import Path

from podwire.errors import KernelError

_ROOT = Path("/proc/sys")


def read(name: str) -> str | None:
    """The value, or None when there is no such setting."""
    try:
        return (_ROOT / name).read_text().strip()
    except OSError:
        return None


def write(name: str, value: str) -> None:
    """Sets the value.

    Raises:
        KernelError: with what to do, when /proc/sys is mounted read-only.
    """
    try:
        (_ROOT / name).write_text(value)
    except OSError as error:
        code = error.errno or errno.EIO
        detail = ""
        if code == errno.EROFS:
            detail = "/proc/sys is read-only here; remount it first: mount -o remount,rw /proc/sys"
        raise KernelError(code, "set sysctl", name, detail) from error
