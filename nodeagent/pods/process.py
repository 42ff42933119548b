"""Real processes as containers: `Runner` over the C helper.

In: a `ContainerRun`. Out: its `Exit`. A container is a waiter (a child of the helper that survives it and us), an init (PID 1 of the
container's namespace) and the command. The waiter's record, RUN/containers/UID_CONTAINER_ATTEMPT, says who they are while they live;
`exit.json` in the run's directory says how it ended. Nothing is remembered here, so a new agent finds all that ran, and all that ended
meanwhile. A waiter that was killed took its container along and left no word: that is an honest 137.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import msgspec

from nodeagent.kernel.procs import ProcessId, alive, open_pidfd
from nodeagent.kernel.spawner import Spawner
from nodeagent.pods.base import ContainerRun, Exit, RunId
from nodeagent.pods.channel import open_job, readable
from nodeagent.pods.launch import NodePrograms, run_request
from podwire.errors import NotFound
from podwire.seams import Clock, Disk, SystemDisk, failpoint

START_WITHIN_S = 30.0
KILLED_WITHIN_S = 10.0


class Record(msgspec.Struct, frozen=True):
    """RUN/containers/…, as the waiter writes it."""

    waiter: int
    waiter_start: int
    init: int
    init_start: int
    boot: str

    @property
    def waiter_id(self) -> ProcessId:
        """The process that writes exit.json."""
        return ProcessId(self.waiter, self.waiter_start)

    @property
    def init_id(self) -> ProcessId:
        """PID 1 of the container."""
        return ProcessId(self.init, self.init_start)


class ProcessRunner:
    """Implements `Runner` (nodeagent/pods/base.py) for containers that are processes."""

    def __init__(
        self,
        spawner: Spawner,
        run_dir: Path,
        *,
        boot_id: str,
        clock: Clock,
        disk: Disk | None = None,
        programs: NodePrograms | None = None,
    ) -> None:
        self._spawner = spawner
        self._records = run_dir.resolve() / "containers"
        self._boot_id = boot_id
        self._clock = clock
        self._disk = disk or SystemDisk()
        self._programs = programs or NodePrograms.here()

    async def start(self, run: ContainerRun) -> None:
        """Returns once the command runs; what runs or has run under this id already is left alone."""
        if self.record(run.id) is not None or self._read_exit(run.directory) is not None:
            return
        run.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        request = run_request(run, record=self._path(run.id), boot_id=self._boot_id, programs=self._programs)
        failpoint("container.start")
        connection, message = await open_job(self._spawner, request, (), clock=self._clock, within_s=START_WITHIN_S)
        connection.close()
        failpoint("container.started")
        if message.words[0] != "started":
            raise message.error("start container", str(run.id))

    async def running(self) -> frozenset[RunId]:
        """Containers whose waiter lives."""
        found = set()
        for name in self._disk.names(self._records):
            run = _run_id(name)
            record = self.record(run) if run else None
            if run and record and alive(record.waiter_id):
                found.add(run)
        return frozenset(found)

    async def wait(self, run: RunId, directory: Path) -> Exit:
        """Waits for the end, which is on disk by then. Raises NotFound where there is neither a container nor its end."""
        record = self.record(run)
        if record is not None:
            await self._waiter_ended(record)
        ended = self._read_exit(directory)  # after the record: the waiter writes it first and then removes the record
        if ended is None:
            if record is None:
                raise NotFound(f"container {run} neither runs nor has it ended on this node")
            ended = Exit(
                137, 9, 0, int(self._clock.wall() * 1000), "Error", "its waiter was killed, and the container with it"
            )
            self._disk.replace(directory / "exit.json", msgspec.json.encode(ended))
        if record is not None:
            self._disk.remove(self._path(run))
        return ended

    async def stop(self, run: RunId, grace_s: float) -> None:
        """TERM to the command by way of its init; after the grace, KILL to the init, which ends the whole PID namespace."""
        record = self.record(run)
        if record is None:
            return
        init = open_pidfd(record.init_id)
        try:
            if init is not None:
                failpoint("container.stop")
                await self._end(record, init, grace_s)
            with suppress(TimeoutError):  # a waiter that waits for disk space is no longer a container
                async with asyncio.timeout(KILLED_WITHIN_S):
                    await self._waiter_ended(record)
        finally:
            if init is not None:
                os.close(init)

    async def close(self) -> None:
        """Nothing is held between calls."""

    def record(self, run: RunId) -> Record | None:
        """Who this container's processes are; None for one that never ran, has ended, or ran before the node restarted."""
        content = self._disk.read(self._path(run))
        if content is None:
            return None
        try:
            record = msgspec.json.decode(content, type=Record)
        except msgspec.DecodeError:
            return None
        return record if record.boot == self._boot_id else None

    async def _end(self, record: Record, init: int, grace_s: float) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(init, signal.SIGTERM if grace_s > 0 else signal.SIGKILL)
            try:
                async with asyncio.timeout(grace_s if grace_s > 0 else KILLED_WITHIN_S):
                    await readable(init)
            except TimeoutError:
                signal.pidfd_send_signal(init, signal.SIGKILL)
                async with asyncio.timeout(KILLED_WITHIN_S):
                    await readable(init)

    async def _waiter_ended(self, record: Record) -> None:
        waiter = open_pidfd(record.waiter_id)
        if waiter is None:
            return
        try:
            await readable(waiter)
        finally:
            os.close(waiter)

    def _path(self, run: RunId) -> Path:
        return self._records / f"{run.uid}_{run.container}_{run.attempt}"

    def _read_exit(self, directory: Path) -> Exit | None:
        content = self._disk.read(directory / "exit.json")
        if content is None:
            return None
        facts = msgspec.json.decode(content, type=dict[str, int | str])
        code = int(facts["code"])
        return Exit(
            code,
            int(facts["signal"]),
            int(facts["started_unix_ms"]),
            int(facts["finished_unix_ms"]),
            str(facts.get("reason") or ("Completed" if code == 0 else "Error")),
            str(facts.get("message", "")),
        )


def _run_id(name: str) -> RunId | None:
    parts = name.rsplit("_", 2)
    return RunId(parts[0], parts[1], int(parts[2])) if len(parts) == 3 and parts[2].isdigit() else None
