"""A node's worth of fakes for the life of pods: a clock that is moved by hand, runners that end when told, a disk in memory."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nodeagent.kernel.base import Sandbox
from nodeagent.pods.base import ContainerRun, Exit, RunId
from nodeagent.pods.lifecycle import PodLifecycles
from nodeagent.pods.pod import ProbeSpec
from nodeagent.pods.probes import Exec, Result
from nodeagent.pods.runs import NodeFacts
from nodeagent.workload.wire import encode_exit
from podwire.api.v1 import state_pb2 as state
from podwire.errors import KernelError, NotFound
from podwire.seams import SystemClock

UID = "11111111-2222-3333-4444-555555555555"
SANDBOX = Sandbox("00000000000a", 100, 1, 4026530001, "/run/podwire/sandboxes/00000000000a.net")
OTHER_SANDBOX = Sandbox("00000000000b", 200, 2, 4026530002, "/run/podwire/sandboxes/00000000000b.net")


class VirtualClock:
    """Time that stands still until `advance`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_700_000_000 + self.now

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Wakes sleepers in order, letting everything settle after each."""
        end = self.now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            self.now, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)
                await settle()
        self.now = end
        await settle()


async def settle() -> None:
    """Lets all that can run, run."""
    for _ in range(40):
        await SystemClock().sleep(0)


@dataclass
class MemoryDisk:
    files: dict[Path, bytes] = field(default_factory=dict)

    def read(self, path: Path) -> bytes | None:
        return self.files.get(path)

    def replace(self, path: Path, content: bytes) -> None:
        self.files[path] = content

    def append(self, path: Path, content: bytes) -> None:
        self.files[path] = self.files.get(path, b"") + content

    def remove(self, path: Path) -> None:
        self.files.pop(path, None)

    def names(self, directory: Path) -> list[str]:
        """As the file system: directories too."""
        depth = len(directory.parts)
        return sorted({path.parts[depth] for path in self.files if path.parts[:depth] == directory.parts})


@dataclass
class FakeRunner:
    """Runs that end by `finish`; TERM ends one at once unless it is in `deaf`."""

    clock: VirtualClock
    disk: MemoryDisk
    started: list[ContainerRun] = field(default_factory=list)
    stopped: list[tuple[RunId, float]] = field(default_factory=list)
    deaf: set[str] = field(default_factory=set)
    refuse: set[str] = field(default_factory=set)
    live: dict[RunId, tuple[ContainerRun, asyncio.Future[Exit]]] = field(default_factory=dict)
    ends: dict[RunId, Exit] = field(default_factory=dict)

    async def start(self, run: ContainerRun) -> None:
        await SystemClock().sleep(0)
        if run.id.container in self.refuse:
            raise KernelError(2, "start container", str(run.id))
        if run.id not in self.live:
            self.started.append(run)
            self.live[run.id] = (run, asyncio.get_running_loop().create_future())
            self.disk.append(run.directory / "log", b"")

    async def running(self) -> frozenset[RunId]:
        return frozenset(self.live)

    async def wait(self, run: RunId, directory: Path) -> Exit:
        if run in self.live:
            return await asyncio.shield(self.live[run][1])
        if run in self.ends:
            return self.ends[run]
        raise NotFound(f"no {run}")

    async def stop(self, run: RunId, grace_s: float) -> None:
        self.stopped.append((run, grace_s))
        if run not in self.live:
            return
        if run.container in self.deaf:
            await self.clock.sleep(grace_s)
            self.finish(run.container, 137, 9)
        else:
            self.finish(run.container, 0)

    async def close(self) -> None:
        pass

    def finish(self, container: str, code: int, signal: int = 0, reason: str = "") -> None:
        """Ends the running attempt of a container."""
        for run in [run for run in self.live if run.container == container]:
            request, future = self.live.pop(run)
            now = int(self.clock.wall() * 1000)
            end = Exit(code, signal, now - 1000, now, reason or ("Error" if code else "Completed"))
            self.ends[run] = end
            self.disk.replace(request.directory / "exit.json", encode_exit(end))
            if not future.done():
                future.set_result(end)

    def attempts(self, container: str = "c") -> list[int]:
        """Attempts started so far, in order."""
        return [run.id.attempt for run in self.started if run.id.container == container]


@dataclass
class FakeChecker:
    """Answers what `answers` says for the probe's port."""

    answers: dict[int, bool] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)

    async def check(self, spec: ProbeSpec, address: str, execute: Exec) -> Result:
        port = getattr(spec.check, "port", 0)
        self.asked.append(port)
        return Result(ok=self.answers.get(port, False), detail="" if self.answers.get(port) else "no answer")


class World:
    """One node: restart its agent with `restart_agent`; disk and runners stay."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.disk = MemoryDisk()
        self.hosted = FakeRunner(self.clock, self.disk)
        self.process = FakeRunner(self.clock, self.disk)
        self.checker = FakeChecker()
        self.changes: list[str] = []
        self.lives = self._lives()

    def _lives(self) -> PodLifecycles:
        return PodLifecycles(
            hosted=self.hosted,
            process=self.process,
            clock=self.clock,
            disk=self.disk,
            state_dir=Path("/state"),
            on_change=self.changes.append,
            run_dir=Path("/run"),
            node=lambda: NodeFacts("node-a", ("192.0.2.1",)),
            checker=self.checker,
        )

    async def restart_agent(self) -> None:
        await self.lives.close()
        self.lives = self._lives()
        await self.lives.adopt()

    async def ensure(self, pod: state.PodState, sandbox: Sandbox = SANDBOX) -> None:
        self.lives.ensure(pod, sandbox)
        await settle()

    def report(self) -> state.PodReport:
        report = self.lives.report(UID)
        assert report is not None
        return report

    def container(self, index: int = 0) -> state.ContainerReport:
        return self.report().containers[index]

    def reasons(self) -> list[str]:
        return [event.reason for event in self.report().events]


def container(name: str = "c", **fields: Any) -> state.ContainerState:
    """A built-in container."""
    fields.setdefault("kind", state.CONTAINER_KIND_BUILT_IN)
    fields.setdefault("argv", ["pause"])
    return state.ContainerState(name=name, image="agnhost", **fields)


def pod(*containers: state.ContainerState, policy: str = "ALWAYS", **fields: Any) -> state.PodState:
    """A pod of these containers, or of one."""
    return state.PodState(
        uid=UID,
        namespace="default",
        name="web",
        generation=1,
        addresses=["10.244.1.5"],
        containers=containers or [container()],
        restart_policy=getattr(state, f"RESTART_POLICY_{policy}"),
        termination_grace_s=30,
        **fields,
    )


def probe(port: int, **fields: Any) -> state.Probe:
    """A TCP probe."""
    return state.Probe(tcp_port=port, **fields)
