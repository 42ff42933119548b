"""Processes by descent: who is whose child, and signals to everything below one process.

In: PIDs. Out: what /proc says. A node's processes are found by descent from its keeper, since containers have PID namespaces of
their own and no cgroup is needed anywhere.
"""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from contextlib import suppress
from pathlib import Path


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third (state) on; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def parent(pid: int) -> int:
    """The parent's PID; 0 where there is no such process."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot, or None where none lives: tells a reused PID."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def below(root: int) -> set[int]:
    """Every descendant of a process, without itself."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in os.listdir("/proc"):  # noqa: PTH208 - thousands of entries: names are enough
        if entry.isdecimal():
            children[parent(int(entry))].append(int(entry))
    found: set[int] = set()
    waiting = [root]
    while waiting:
        for child in children[waiting.pop()]:
            found.add(child)
            waiting.append(child)
    return found


def signal_below(root: int, number: signal.Signals) -> None:
    """Sends a signal to every descendant, again until no new ones appear: what is not stopped yet may still fork."""
    done: set[int] = set()
    while new := below(root) - done:
        for pid in new:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        done |= new
