"""Runs built-in images and stand-ins through the node's workload host: `Runner` over RUN/workload.sock.

In: `ContainerRun`s. Out: `Exit`s. The host is another process under the supervisor: when it dies, every run it had ended with it
(137, signal 9, reason HostDied), and that is written to `exit.json` here, because nobody else is left to do it. A run is declared dead
only after a new host was asked what it runs: a broken connection alone says nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec

from nodeagent.pods.base import ContainerRun, Exit, RunId
from nodeagent.workload import wire
from podwire.errors import KernelError, Unavailable
from podwire.seams import Clock, Disk, failpoint

RETRY_S = 0.05
START_DEADLINE_S = 10.0
HOST_DIED = "HostDied"


class _LinkLost(Exception):
    """The connection to the host broke before the reply came."""


class HostedRunner:
    """One node's hosted containers, seen from its agent."""

    def __init__(self, socket_path: Path, clock: Clock, disk: Disk) -> None:
        self._path = socket_path
        self._clock = clock
        self._disk = disk
        self._link: _Link | None = None
        self._linking = asyncio.Lock()
        self._waiting: dict[RunId, tuple[asyncio.Future[Exit], Path]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, run: ContainerRun) -> None:
        deadline = self._clock.monotonic() + START_DEADLINE_S
        while True:
            link = await self._linked(deadline)
            try:
                reply = await link.call(wire.START, run=run)
            except _LinkLost:  # starting twice is harmless, so ask the next host
                continue
            if reply.error:
                raise KernelError(0, "start container", str(run.id), reply.error)
            link.known.add(run.id)
            failpoint("hosted.started")
            return

    async def running(self) -> frozenset[RunId]:
        while True:
            link = await self._linked(self._clock.monotonic() + START_DEADLINE_S)
            try:
                return frozenset((await link.call(wire.LIST)).runs)
            except _LinkLost:
                continue

    async def wait(self, run: RunId, directory: Path) -> Exit:
        end = self._read(directory)
        if end is not None:
            return end
        waiting = self._waiting.get(run)
        if waiting is None:
            waiting = (asyncio.get_running_loop().create_future(), directory)
            self._waiting[run] = waiting
            if self._link is None or run not in self._link.known:
                self._spawn(self._settle_the_dead())
        return await asyncio.shield(waiting[0])

    async def stop(self, run: RunId, grace_s: float) -> None:
        while True:
            link = await self._linked(None)
            if run not in link.known:
                return
            try:
                await link.call(wire.STOP, id_of=run, grace_s=grace_s)
                return
            except _LinkLost:
                continue

    async def close(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._link is not None:
            await self._link.close()
        for future, _ in self._waiting.values():
            future.cancel()

    async def _linked(self, deadline: float | None) -> _Link:
        """The living connection, made anew when there is none.

        Raises:
            Unavailable: no host answered before the deadline.
        """
        async with self._linking:
            while self._link is None or self._link.broken:
                try:
                    self._link = await _Link.open(self._path, self._ended, self._lost)
                except (OSError, _LinkLost) as error:
                    if deadline is not None and self._clock.monotonic() > deadline:
                        raise Unavailable(
                            f"the workload host does not answer on {self._path}", hint="its supervisor restarts it"
                        ) from error
                    await self._clock.sleep(RETRY_S)
            return self._link

    def _ended(self, run: RunId, end: Exit) -> None:
        waiting = self._waiting.pop(run, None)
        if waiting is not None and not waiting[0].done():
            waiting[0].set_result(end)

    def _lost(self) -> None:
        self._link = None
        if self._waiting:
            self._spawn(self._settle_the_dead())

    async def _settle_the_dead(self) -> None:
        """Ends every awaited run that the present host does not know."""
        link = await self._linked(None)
        for run, (_, directory) in list(self._waiting.items()):
            if run in link.known:
                continue
            end = self._read(directory)
            if end is None:
                end = died_with_host(self._clock.wall())
                self._disk.replace(directory / wire.EXIT_FILE, wire.encode_exit(end))
            self._ended(run, end)

    def _read(self, directory: Path) -> Exit | None:
        content = self._disk.read(directory / wire.EXIT_FILE)
        return None if content is None else wire.decode_exit(content)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def died_with_host(wall: float) -> Exit:
    """How a run ended whose host is gone. When it started is known to the life cycle only."""
    now = int(wall * 1000)
    return Exit(137, 9, 0, now, HOST_DIED, "the workload host died; its containers are started again at once")


class _Link:
    """One connection: requests find their replies by id, news go to `ended`. `known` is what the host runs, as far as it has said."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ended: Any, lost: Any) -> None:
        self.known: set[RunId] = set()
        self._reader = reader
        self._writer = writer
        self._ended = ended
        self._lost = lost
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Future[wire.Reply]] = {}
        self.broken = False
        self._task = asyncio.ensure_future(self._read())

    @classmethod
    async def open(cls, path: Path, ended: Any, lost: Any) -> _Link:
        """Connects and learns what runs; raises OSError or _LinkLost."""
        reader, writer = await asyncio.open_unix_connection(path, limit=wire.LINE_LIMIT_BYTES)
        link = cls(reader, writer, ended, lost)
        link.known.update((await link.call(wire.LIST)).runs)
        return link

    async def call(self, method: str, **fields: Any) -> wire.Reply:
        """One request; raises _LinkLost."""
        if self.broken:
            raise _LinkLost
        number = next(self._ids)
        future: asyncio.Future[wire.Reply] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        try:
            self._writer.write(wire.line(wire.Request(number, method, **fields)))
            return await future
        finally:
            self._pending.pop(number, None)

    async def _read(self) -> None:
        try:
            while line := await self._reader.readline():
                reply = wire.reply(line)
                if reply.id == 0 and reply.ended is not None and reply.exit is not None:
                    self.known.discard(reply.ended)
                    self._ended(reply.ended, reply.exit)
                elif (future := self._pending.get(reply.id)) is not None and not future.done():
                    future.set_result(reply)
        except (OSError, ValueError, msgspec.DecodeError):
            pass  # whatever broke it, the connection is done for
        finally:
            self.broken = True
            self._writer.close()
            for future in self._pending.values():
                if not future.done():
                    future.set_exception(_LinkLost())
            self._lost()

    async def close(self) -> None:
        """Lets go without calling it a loss."""
        self._lost = _nothing
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def _nothing() -> None:
    """No one is told."""
