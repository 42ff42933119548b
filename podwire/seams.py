"""Seams for determinism: everything that is not a function of its inputs is one of these, and is passed in.

In: nothing. Out: `Clock`, `Rng` and `Disk` protocols with their real implementations, and failpoints. The simulator passes virtual
ones, so that a controller and its agents run in one process by seed. No module but this one may call `time`, `random`, `secrets`,
`uuid.uuid4` or `asyncio.sleep` (a lint rule keeps it so); the network seam is `nodeagent.transport`, the kernel's `nodeagent.kernel.base`.
"""
# ruff: noqa: TID251 - this is the one adapter the rule points to

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """Time. `wall` is for people and certificates only: no safety decision reads it."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def wall(self) -> float:
        """Seconds since 1970."""

    async def sleep(self, seconds: float) -> None:
        """Waits; cancellable."""


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def pause(self, seconds: float) -> None:
        """Blocks the calling thread; for scripts and the command line, never inside an event loop."""
        time.sleep(seconds)


class Rng(Protocol):
    """Randomness and identity."""

    def uid(self) -> str:
        """A new UUID in its usual spelling."""

    def token(self, size: int) -> bytes:
        """`size` unpredictable bytes."""

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high], for jitter."""

    def name_suffix(self, length: int) -> str:
        """Characters as Kubernetes appends to generateName (no vowels, so no words)."""


SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


class SystemRng:
    """The machine's randomness."""

    def uid(self) -> str:
        return str(uuid.uuid4())

    def token(self, size: int) -> bytes:
        return secrets.token_bytes(size)

    def uniform(self, low: float, high: float) -> float:
        return random.uniform(low, high)  # noqa: S311 - jitter, not a secret

    def name_suffix(self, length: int) -> str:
        return "".join(secrets.choice(SUFFIX_ALPHABET) for _ in range(length))


class SeededRng:
    """The same, from a seed: for the simulator and for tests."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - reproducible on purpose

    def uid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def token(self, size: int) -> bytes:
        return self._random.randbytes(size)

    def uniform(self, low: float, high: float) -> float:
        return self._random.uniform(low, high)

    def name_suffix(self, length: int) -> str:
        return "".join(self._random.choice(SUFFIX_ALPHABET) for _ in range(length))


class Disk(Protocol):
    """Small durable files. Every write is whole or absent after a crash."""

    def read(self, path: Path) -> bytes | None:
        """The content, or None where there is no such file."""

    def replace(self, path: Path, content: bytes) -> None:
        """Writes beside, syncs, renames, syncs the directory. Raises OSError (ENOSPC, EIO) with the old content intact."""

    def append(self, path: Path, content: bytes) -> None:
        """Adds at the end and syncs the data: returns only when it would survive a power loss."""

    def remove(self, path: Path) -> None:
        """Removes the file; no error where there is none."""

    def names(self, directory: Path) -> list[str]:
        """Names of the files in a directory, sorted; empty where there is no such directory."""


class SystemDisk:
    """The machine's file system."""

    def read(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def replace(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside = path.with_name(f".{path.name}.new")
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        beside.rename(path)
        _sync_directory(path.parent)

    def append(self, path: Path, content: bytes) -> None:
        new = not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        size = os.fstat(fd).st_size
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
            os.fdatasync(fd)
        except OSError:
            os.ftruncate(fd, size)  # half of it would stand in the way of what comes later
            raise
        finally:
            os.close(fd)
        if new:
            _sync_directory(path.parent)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def names(self, directory: Path) -> list[str]:
        try:
            return sorted(entry.name for entry in directory.iterdir())
        except FileNotFoundError:
            return []


class PassingDisk(SystemDisk):
    """The same for files that need not outlive the machine's next start: whole or absent, and never synced."""

    def replace(self, path: Path, content: bytes) -> None:
        beside = path.with_name(f".{path.name}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            fd = os.open(beside, flags, 0o600)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(beside, flags, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        beside.rename(path)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


_failpoint: Callable[[str], None] | None = None


def set_failpoint_handler(handler: Callable[[str], None] | None) -> None:
    """Installs what runs at every named effect; None (the default) makes them free. The simulator crashes or records there."""
    global _failpoint  # noqa: PLW0603 - one process, one handler, set before anything runs
    _failpoint = handler


def failpoint(name: str) -> None:
    """Marks an effect: `failpoint("journal.appended")`. Inert unless a handler is installed."""
    if _failpoint is not None:
        _failpoint(name)
