"""Loops that stay up, and work that is done once per key however often it is asked for.

In: coroutines and keys. Out: a `Supervisor` that restarts a failing loop with growing pauses and ends all of its tasks together, and a
`WorkQueue` that runs one handler per key at a time, retries failures with back-off, and forgets what has settled. Handlers are
level-triggered: a key says "look at this now", never what changed. Time and jitter are passed in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, Self, TypeVar

from podwire.errors import PodwireError
from podwire.seams import Clock, Rng
from podwire.telemetry import logger

Key = TypeVar("Key", bound=Hashable)

SETTLED_S = 60.0  # a loop that ran this long starts again with the first pause

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses that double from `first_s` to `longest_s`, each cut by up to half so that many do not retry in step."""

    first_s: float = 0.2
    longest_s: float = 30.0

    def pause(self, failures: int, rng: Rng) -> float:
        """The pause after so many failures in a row, the first being 1."""
        full = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 32))
        return rng.uniform(full / 2, full)


class Supervisor:
    """Owns a process's loops. `async with Supervisor(...) as tasks: tasks.keep("name", loop)`; leaving the block cancels them all."""

    def __init__(self, *, clock: Clock, rng: Rng, backoff: Backoff | None = None) -> None:
        self._clock = clock
        self._rng = rng
        self._backoff = backoff or Backoff()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._tasks:  # one that is being cancelled may still start another
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def keep(self, name: str, loop: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Runs a loop; when it fails it is logged and started again after a pause. One that returns is done."""
        return self._own(self._kept(name, loop), name)

    def once(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Runs something that may fail without taking the others along: it is logged."""

        async def logged() -> None:
            try:
                await work()
            except Exception as error:  # noqa: BLE001 - one task's failure must not end its siblings
                _report(name, error)

        return self._own(logged(), name)

    def _own(self, work: Awaitable[None], name: str) -> asyncio.Task[None]:
        async def run() -> None:
            await work

        task = asyncio.get_running_loop().create_task(run(), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _kept(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        failures = 0
        while True:
            started = self._clock.monotonic()
            try:
                await loop()
                return
            except Exception as error:  # noqa: BLE001 - restarting it is the point
                failures = 1 if self._clock.monotonic() - started > SETTLED_S else failures + 1
                _report(name, error)
            await self._clock.sleep(self._backoff.pause(failures, self._rng))


class WorkQueue(Generic[Key]):
    """Keys to look at. `add` from anywhere in the loop; `run` (under a supervisor) calls the handler.

    A key is never handled twice at the same time; one added while it is handled is handled again after. A failure adds the key
    again after a pause.
    """

    def __init__(
        self,
        handler: Callable[[Key], Awaitable[None]],
        *,
        clock: Clock,
        rng: Rng,
        workers: int = 1,
        backoff: Backoff | None = None,
    ) -> None:
        self._handler = handler
        self._clock = clock
        self._rng = rng
        self._workers = workers
        self._backoff = backoff or Backoff()
        self._ready: asyncio.Queue[Key] = asyncio.Queue()
        self._queued: set[Key] = set()
        self._busy: set[Key] = set()
        self._again: set[Key] = set()  # added while busy
        self._failures: dict[Key, int] = {}
        self._group: asyncio.TaskGroup | None = None

    def add(self, key: Key) -> None:
        """Asks for the key to be handled soon."""
        if key in self._busy:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.put_nowait(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Asks for the key to be handled after a while; the queue must be running."""
        if self._group is None:
            raise RuntimeError("the work queue is not running")
        self._group.create_task(self._later(key, seconds))

    async def run(self) -> None:
        """Handles keys until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            for _ in range(self._workers):
                self._group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            key = await self._ready.get()
            self._queued.discard(key)
            self._busy.add(key)
            try:
                await self._handler(key)
            except Exception as error:  # noqa: BLE001 - one key's failure must not stop the others
                self._failures[key] = self._failures.get(key, 0) + 1
                _report(f"handling {key}", error)
                self.add_after(key, self._backoff.pause(self._failures[key], self._rng))
            else:
                self._failures.pop(key, None)
            finally:
                self._busy.discard(key)
            if key in self._again:
                self._again.discard(key)
                self.add(key)

    async def _later(self, key: Key, seconds: float) -> None:
        await self._clock.sleep(seconds)
        self.add(key)


def _report(name: str, error: Exception) -> None:
    """An error of ours is a sentence; any other one is a bug and keeps its traceback."""
    if isinstance(error, PodwireError):
        _log.warning("failed, will be tried again", what=name, error=str(error))
    else:
        _log.error("failed unexpectedly", what=name, exc_info=error)
