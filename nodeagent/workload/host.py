"""The workload host: gives built-in programs and stand-ins a virtual life, and tells the agents how it ended.

In: start, stop and list from whoever is connected to the socket. Out: for every run that ends, `exit.json` in its directory first, then
the news to everyone connected. Runs do not depend on a connection: an agent may come and go. What a run may do is in `life.py`, what
it does in `programs/`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from nodeagent.pods.base import ContainerRun, Exit, RunId
from nodeagent.workload import wire
from nodeagent.workload.catalog import STAND_IN, program
from nodeagent.workload.commands import Shell
from nodeagent.workload.containerlog import ContainerLog
from nodeagent.workload.life import Ending, Life, Surroundings
from nodeagent.workload.names import Names
from nodeagent.workload.sockets import PodSockets, Sockets
from podwire.errors import KernelError, PodwireError
from podwire.seams import Clock, Disk

START_LIMIT_S = 2.0  # how long a start waits for the program to listen; it goes on in any case
SPARE_DESCRIPTORS = 256


@dataclass(frozen=True, slots=True)
class _Hosted:
    life: Life
    task: asyncio.Task[None]


class Host:
    """All runs of one node. `shell_for` makes a run's shell; `sockets_for` says where its sockets are made: in its pod, unless a test
    says otherwise.
    """

    def __init__(
        self,
        clock: Clock,
        disk: Disk,
        passing: Disk,
        sockets_for: Callable[[ContainerRun], Sockets] | None = None,
        *,
        shell_for: Callable[[ContainerRun], Shell],
        descriptors: int,
    ) -> None:
        self._clock = clock
        self._disk = disk
        self._passing = passing
        self._sockets_for = sockets_for or (lambda run: PodSockets(run.sandbox))
        self._shell_for = shell_for
        self._descriptors = descriptors
        self._runs: dict[RunId, _Hosted] = {}
        self._listeners: set[asyncio.StreamWriter] = set()
        self._requests: set[asyncio.Task[None]] = set()

    async def serve(self, path: Path) -> None:
        """Answers on a Unix socket until cancelled."""
        server = await asyncio.start_unix_server(self._converse, sock=_listening(path), limit=wire.LINE_LIMIT_BYTES)
        async with server:
            await server.serve_forever()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._listeners.add(writer)
        try:
            while line := await reader.readline():
                task = asyncio.ensure_future(self._answer(line, writer))
                self._requests.add(task)
                task.add_done_callback(self._requests.discard)
        except (OSError, ValueError):  # gone, or a line beyond every limit
            return
        finally:
            self._listeners.discard(writer)
            writer.close()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        try:
            request = wire.request(line)
        except msgspec.DecodeError as error:
            _tell(f"a request that is none: {error}")
            writer.close()
            return
        try:
            reply = await self._do(request)
        except (PodwireError, OSError) as error:
            reply = wire.Reply(request.id, error=str(error))
        if not writer.is_closing():
            writer.write(wire.line(reply))

    async def _do(self, request: wire.Request) -> wire.Reply:
        if request.method == wire.START and request.run is not None:
            await self.start(request.run)
        elif request.method == wire.STOP and request.id_of is not None:
            await self.stop(request.id_of, request.grace_s)
        elif request.method == wire.LIST:
            return wire.Reply(request.id, runs=tuple(self._runs))
        else:
            return wire.Reply(request.id, error=f"there is no request {request.method!r} with these fields")
        return wire.Reply(request.id)

    async def start(self, run: ContainerRun) -> None:
        """Begins a run; one that runs, or has run, is left as it is.

        Raises:
            KernelError: no descriptors are left for another container.
        """
        if run.id in self._runs or self._disk.read(run.directory / wire.EXIT_FILE) is not None:
            return
        if _next_descriptor() + SPARE_DESCRIPTORS > self._descriptors:
            raise KernelError(errno.EMFILE, "start container", str(run.id), "the workload host has no descriptors left")
        run.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        log = ContainerLog(run.directory / wire.LOG_FILE, self._clock.wall)
        sockets = self._sockets_for(run)
        life = Life(
            Surroundings(
                hostname=run.hostname,
                env=dict(run.env),
                sockets=sockets,
                names=Names(sockets, run.files),
                clock=self._clock,
                write=log.write,
                directory=run.directory,
                shell=self._shell_for(run),
                title=f"pod {run.pod or run.hostname}, container {run.id.container}, image {run.image or 'unknown'}",
                ports=tuple((port.number, port.protocol) for port in run.ports),
            )
        )
        task = asyncio.ensure_future(self._live(run, life, log))
        self._runs[run.id] = _Hosted(life, task)
        serving = asyncio.ensure_future(life.serving.wait())
        await asyncio.wait({serving, task}, timeout=START_LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
        serving.cancel()

    async def _live(self, run: ContainerRun, life: Life, log: ContainerLog) -> None:
        started = self._clock.wall()
        args = run.argv if run.program == STAND_IN else run.argv[1:]
        ending = await life.live(program(run.program), args)
        log.close()
        end = ended(ending, started, self._clock.wall())
        try:
            await self._write(run.directory / wire.EXIT_FILE, wire.encode_exit(end), ordered=life.terminated.is_set())
        except OSError as error:
            _tell(f"exit of {run.id} is not on disk: {error}")
        del self._runs[run.id]
        news = wire.line(wire.Reply(ended=run.id, exit=end))
        for writer in self._listeners:
            if not writer.is_closing():
                writer.write(news)

    async def _write(self, path: Path, content: bytes, *, ordered: bool) -> None:
        """An end that nobody ordered may decide whether a job is done, and is synced; one that was ordered is only for an agent that
        dies before it hears of it, and pods that go by the hundred do not wait for the disk.
        """
        if ordered:
            self._passing.replace(path, content)
        else:
            await asyncio.to_thread(self._disk.replace, path, content)

    async def stop(self, run: RunId, grace_s: float) -> None:
        """TERM, and KILL after the grace; returns when `exit.json` is written."""
        hosted = self._runs.get(run)
        if hosted is None:
            return
        hosted.life.terminated.set()
        if grace_s > 0:
            await asyncio.wait({hosted.task}, timeout=grace_s)
        if not hosted.task.done():
            hosted.life.kill()
            await asyncio.wait({hosted.task})


def _listening(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    path.chmod(0o600)
    return sock


def _next_descriptor() -> int:
    """The number the next descriptor will have: about how many are open, without counting them."""
    probe = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    os.close(probe)
    return probe


def ended(ending: Ending, started: float, finished: float) -> Exit:
    """An ending as it is reported."""
    reason = "Completed" if ending.code == 0 else "Error"
    return Exit(ending.code, ending.signal, int(started * 1000), int(finished * 1000), reason, ending.message)


def _tell(text: str) -> None:
    """A line for the supervisor's log."""
    with suppress(OSError):  # a full disk
        sys.stderr.write(f"workload host: {text}\n")
