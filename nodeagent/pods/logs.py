"""Reads what containers wrote. In: where its runs' directories are (STATE/pods/UID.CONTAINER, and `.ATTEMPT` for each). Out: bytes.

Each attempt has `log`, perhaps `log.1` before it (rotated at 10 MiB), both in the CRI's format, written by `helper/log.c` or the
workload host. Following polls: it goes through rotations and on to the next attempt, and ends when the container is gone for good.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from io import BufferedReader
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Self

from podwire.errors import NotFound
from podwire.seams import Clock

POLL_S = 0.1
CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line as the container wrote it, or a piece of a long one: `last` says whether it ends there."""

    time: str
    stream: str
    last: bool
    text: bytes


def parse_line(line: bytes) -> LogLine | None:
    """`TIME STREAM TAG TEXT`; None for what is not such a line (cut short by a full disk, say)."""
    parts = line.rstrip(b"\n").split(b" ", 3)
    if len(parts) != 4 or parts[1] not in (b"stdout", b"stderr") or parts[2] not in (b"F", b"P"):
        return None
    return LogLine(parts[0].decode(errors="replace"), parts[1].decode(), parts[2] == b"F", parts[3])


def render(lines: list[LogLine], *, timestamps: bool, starts: bool = True) -> bytes:
    """What the user sees; pieces of a long line are joined. `starts`: the first piece is not a continuation."""
    parts: list[bytes] = []
    for line in lines:
        parts.append(f"{line.time} ".encode() if timestamps and starts else b"")
        parts.append(line.text + (b"\n" if line.last else b""))
        starts = line.last
    return b"".join(parts)


def tail_start(text: bytes | mmap, count: int) -> tuple[int, int]:
    """Where the last `count` lines begin, and how many of them are missing. Pieces of a long line are one, finished or not."""
    position = text.rfind(b"\n") + 1  # what is being written now is no line yet
    seen, newest = 0, True
    while position > 0:
        begin = text.rfind(b"\n", 0, position - 1) + 1
        line = parse_line(text[begin:position])
        if line and (line.last or newest):
            if seen == count:
                return position, 0
            seen += 1
        newest = newest and line is None
        position = begin
    return 0, count - seen


def attempts(runs: Path) -> list[int]:
    """Attempts that have a directory, oldest first."""
    begins = f"{runs.name}."
    try:
        ends = [name.removeprefix(begins) for name in os.listdir(runs.parent) if name.startswith(begins)]  # noqa: PTH208
    except FileNotFoundError:
        return []
    return sorted(int(end) for end in ends if end.isdigit())


@dataclass(frozen=True, slots=True)
class LogSource:
    """Whose log: its runs' directories without their `.ATTEMPT`, which attempt, and whether the container will not come back."""

    runs: Path
    previous: bool = False
    gone: Callable[[], bool] = lambda: True


@dataclass(frozen=True, slots=True)
class LogQuery:
    """What of it: the last lines (None: all), what comes later too, and how it is shown."""

    tail_lines: int | None = None
    follow: bool = False
    timestamps: bool = False


async def read_log(source: LogSource, query: LogQuery, *, clock: Clock) -> AsyncIterator[bytes]:
    """The log of a container's newest attempt, or of the one before it.

    With `follow`, what comes later too, until `gone()` says that the container will not come back and all is read. Raises NotFound
    where there is no such attempt (following waits for the first one instead).
    """
    runs, previous, gone = source.runs, source.previous, source.gone
    follow, timestamps = query.follow, query.timestamps
    tail_lines = -1 if query.tail_lines is None else query.tail_lines
    known = attempts(runs)
    while not known and follow and not gone():
        await clock.sleep(POLL_S)
        known = attempts(runs)
    if not known and not previous and gone():
        return  # it ended without a word: an init container's stand-in, for one
    if len(known) < (2 if previous else 1):
        which = "previous attempt" if previous else "log yet"
        raise NotFound(
            f"container {runs.name.rpartition('.')[2]} has no {which}", hint="leave out --previous" if previous else ""
        )
    attempt = known[-2] if previous else known[-1]
    following = follow and not previous
    while True:
        with _Reader(runs.with_name(f"{runs.name}.{attempt}"), tail_lines) as reader:
            starts, ended = True, not following
            while True:
                lines = reader.more()
                if lines:
                    yield render(lines, timestamps=timestamps, starts=starts)
                    starts = lines[-1].last
                elif ended:
                    break
                else:  # asked before the last look, so that nothing written before the end is missed
                    ended = gone() or any(newer > attempt for newer in attempts(runs))
                    if not ended:
                        await clock.sleep(POLL_S)
        newer_attempts = [newer for newer in attempts(runs) if newer > attempt]
        if not following or not newer_attempts:
            return
        attempt, tail_lines = newer_attempts[0], -1


class _Reader:
    """One attempt's log across rotations: holds the file it reads, so that renaming it away loses nothing."""

    def __init__(self, directory: Path, tail_lines: int) -> None:
        self._path = directory / "log"
        self._older = directory / "log.1"
        self._file: BufferedReader | None = None
        self._rest = b""
        missing = self._seek_tail(self._path, tail_lines) if tail_lines >= 0 else 1
        if missing and self._older.exists():
            self._seek_tail(self._older, missing if tail_lines >= 0 else -1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def more(self) -> list[LogLine]:
        """The next lines, at most a chunk of them; empty when there are none now."""
        while True:
            lines = self._some()
            if lines:
                return lines
            successor = self._successor()
            if successor is None:
                return []
            lines = self._some()  # what was written before the rename
            if lines:
                return lines
            if not self._open(successor):
                return []

    def _seek_tail(self, path: Path, count: int) -> int:
        """Opens a file at its last `count` lines, or at its start; returns how many it lacks."""
        if not self._open(path) or self._file is None or count < 0 or os.fstat(self._file.fileno()).st_size == 0:
            return count
        with mmap(self._file.fileno(), 0, access=ACCESS_READ) as text:
            start, missing = tail_start(text, count)
        self._file.seek(start)
        return missing

    def _some(self) -> list[LogLine]:
        while self._file and (data := self._file.read(CHUNK)):
            *whole, self._rest = (self._rest + data).split(b"\n")
            lines = [line for line in map(parse_line, whole) if line]
            if lines:
                return lines
        return []

    def _successor(self) -> Path | None:
        """Where the log goes on after the file that is open, or None when that is the one being written."""
        if self._file is None:
            return self._path if self._path.exists() else None
        mine = os.fstat(self._file.fileno())
        try:
            if os.path.samestat(mine, self._path.stat()):
                return None
            if self._older.exists() and not os.path.samestat(mine, self._older.stat()):
                return self._older  # rotated twice since the last look
        except FileNotFoundError:
            return None  # between the rename and the new file
        return self._path

    def _open(self, path: Path) -> bool:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return False
        if self._file:
            self._file.close()
        self._file, self._rest = file, b""
        return True
