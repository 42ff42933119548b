"""Processes by identity. In: a pid and a start time, as records hold them. Out: whether that very process lives, and a handle on it.

A pid alone is reused; with the start time (field 22 of /proc/PID/stat) it is not, within one boot.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process of this boot."""

    pid: int
    start_time: int

    def __str__(self) -> str:
        return f"{self.pid}:{self.start_time}"


def start_time(pid: int) -> int:
    """When the process started, in clock ticks; 0 where there is none, or only a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may hold anything
    return 0 if fields[0] in ("Z", "X") else int(fields[19])


def alive(process: ProcessId) -> bool:
    """Whether this very process lives."""
    return process.pid > 0 and start_time(process.pid) == process.start_time != 0


def open_pidfd(process: ProcessId) -> int | None:
    """A descriptor that becomes readable when the process ends; None when it has ended. The caller closes it."""
    with suppress(ProcessLookupError, OSError):
        pidfd = os.pidfd_open(process.pid)
        if alive(process):  # checked after opening: from here on the descriptor cannot mean another process
            return pidfd
        os.close(pidfd)
    return None
