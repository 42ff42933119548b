"""A container's log: the CRI's lines, in a file that cannot grow without end.

In: text on a stream. Out: `2026-11-22T17:00:00.123456789Z stdout F text` per line. At 10 MiB the file becomes `log.1` (what was `log.1`
goes) and a new one begins. A disk that is full loses log lines and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

LIMIT_BYTES = 10 * 1024 * 1024


def stamp(wall: float) -> str:
    """RFC 3339 with nanoseconds, in UTC."""
    seconds = int(wall)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int((wall - seconds) * 1e9):09d}Z"


class ContainerLog:
    """One run's log; opened at the first line."""

    def __init__(self, path: Path, wall: Callable[[], float], limit_bytes: int = LIMIT_BYTES) -> None:
        self._path = path
        self._wall = wall
        self._limit = limit_bytes
        self._fd = -1
        self._size = 0

    def write(self, stream: str, text: str) -> None:
        """Adds lines."""
        start = f"{stamp(self._wall())} {stream} F "
        data = "".join(f"{start}{line}\n" for line in text.split("\n") if line or "\n" not in text).encode()
        with contextlib.suppress(OSError):
            if self._size + len(data) > self._limit:
                self.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
            if self._fd < 0:
                self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                self._size = os.fstat(self._fd).st_size
            self._size += os.write(self._fd, data)

    def close(self) -> None:
        """Closes the file; a later line opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size = -1, 0
