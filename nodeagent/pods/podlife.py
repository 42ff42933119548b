"""One pod's containers: init containers in order, then the others side by side, each kept as the restart policy says.

In: a `Pod`, its sandbox, and what `records.py` found of earlier runs. Out: runs started and stopped through `Runner`s, probes, events,
and `Tracked` values that `podreport.py` turns into a report. Decisions (`restarts.py`, `probes.py`) are pure; this is the one place
that acts on them. Every change is announced; nobody is waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import structlog

from nodeagent.kernel.base import Sandbox
from nodeagent.pods.base import ContainerRun, Exit, RunId, Runner
from nodeagent.pods.pod import NEVER, ON_FAILURE, PROCESS, STAND_IN, Pod, ProbeSpec
from nodeagent.pods.podreport import RUNNING, TERMINATED, WAITING, Events, Tracked
from nodeagent.pods.probes import Checker, Result
from nodeagent.pods.probing import is_probed, keep_probing
from nodeagent.pods.records import Records
from nodeagent.pods.restarts import LOST, BackOff, advance, not_its_fault, remaining, wants_restart
from nodeagent.pods.runs import NodeFacts, container_run, pod_files
from podwire.errors import NotFound, PodwireError
from podwire.seams import Clock, failpoint

NORMAL, WARNING = "Normal", "Warning"
LOOP = "CrashLoopBackOff"
START_ERROR = "StartError"
ExecInRun = Callable[[ContainerRun, tuple[str, ...]], Awaitable[tuple[int, str]]]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Means:
    """What every pod's life needs of its node."""

    hosted: Runner
    process: Runner
    records: Records
    clock: Clock
    checker: Checker
    execute: ExecInRun  # (run, argv) → awaitable (exit code, output)
    node: Callable[[], NodeFacts]
    changed: Callable[[str], None]

    def runner(self, kind: str) -> Runner:
        """The runner for a container kind."""
        return self.process if kind == PROCESS else self.hosted

    def now_ms(self) -> int:
        """Wall clock, for people."""
        return int(self.clock.wall() * 1000)


class PodLife:
    """The life of one pod in one sandbox. `run` ends when nothing is left to run; `stop` makes it end."""

    def __init__(self, means: Means, pod: Pod, sandbox: Sandbox) -> None:
        self.means = means
        self.pod = pod
        self.sandbox = sandbox
        memory = means.records.recall(pod.uid)
        self._moved = memory is None or not memory.of(sandbox)  # what ran before ran elsewhere
        self.started_ms = memory.started_ms if memory else means.now_ms()
        self.init = [means.records.restore(pod.uid, spec, memory) for spec in pod.init_containers]
        self.containers = [means.records.restore(pod.uid, spec, memory) for spec in pod.containers]
        self.events = Events()
        self.stopping = False
        self._back_offs: dict[str, BackOff] = {}
        self._starting: dict[str, asyncio.Lock] = {}
        self._kills: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Starts living, in a task of its own; what was found of earlier runs is news to whoever asked before."""
        if any(one.phase != WAITING or one.attempt for one in (*self.init, *self.containers)):
            self.means.changed(self.pod.uid)
        self._task = asyncio.ensure_future(self._run())
        self._task.add_done_callback(self._report_fault)

    def _report_fault(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a pod's life failed", pod=f"{self.pod.namespace}/{self.pod.name}", exc_info=error)

    async def abandon(self) -> None:
        """Lets go of everything; what runs goes on."""
        for task in (self._task, *self._kills):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def tracked(self, container: str) -> Tracked:
        """The container of that name, or the first; raises NotFound."""
        for one in (*self.containers, *self.init):
            if container in ("", one.spec.name):
                return one
        raise NotFound(f"pod {self.pod.namespace}/{self.pod.name} has no container {container!r}")

    def is_over(self, one: Tracked) -> bool:
        """Whether a container has ended and will not be run again."""
        if one.phase != TERMINATED or one.end is None:
            return self._task is not None and self._task.done() and one.phase != RUNNING
        return self.stopping or not wants_restart(self.pod.restart_policy, one.end, init=one in self.init)

    def container_run(self, one: Tracked) -> ContainerRun:
        """The present run of a container, as its runner sees it."""
        records = self.means.records
        return container_run(
            self.pod,
            one.spec,
            one.run_id(self.pod.uid),
            sandbox=self.sandbox,
            directory=records.directory(one.run_id(self.pod.uid)),
            files=records.files(self.pod.uid),
            node=self.means.node(),
        )

    async def _run(self) -> None:
        self.means.records.write_files(self.pod.uid, pod_files(self.pod, self.means.node()))
        if self._moved:
            await self._move()
        policy = self.pod.restart_policy
        for one in self.init:
            if not await self._keep(one, NEVER if policy == NEVER else ON_FAILURE, init=True):
                return
        async with asyncio.TaskGroup() as group:
            for one in self.containers:
                group.create_task(self._keep(one, policy, init=False))

    async def _move(self) -> None:
        """What ran in another sandbox is of no use in this one; init containers prepare it anew, as after a node's restart."""
        for one in (*self.init, *self.containers):
            if one.phase == RUNNING:
                run = one.run_id(self.pod.uid)
                await self.means.runner(one.spec.kind).stop(run, 0)
                one.ends(replace(await self._ended(one, run), reason=LOST))
        if self.pod.restart_policy != NEVER:
            for one in self.init:
                if one.end is not None:
                    self._next(one)
        self.means.records.remember(self.pod.uid, self.sandbox, self.started_ms, ())

    def _next(self, one: Tracked) -> None:
        one.next_attempt()
        self.means.records.begin_attempt(one.run_id(self.pod.uid))

    async def _keep(self, one: Tracked, policy: str, *, init: bool) -> bool:
        """Runs a container until it needs no further run; returns whether it ended well."""
        while not self.stopping:
            ended_at = self.means.clock.monotonic()
            if one.phase != TERMINATED:
                if not await self._attempt(one, init=init):
                    return False
                ended_at = self.means.clock.monotonic()
            if one.end is None or self.stopping or not wants_restart(policy, one.end, init=init):
                break
            if not not_its_fault(one.end):
                await self._pause(one, ended_at)
            if self._goes_on():
                self._next(one)
        return one.end is not None and one.end.code == 0

    def _goes_on(self) -> bool:
        return not self.stopping

    async def _pause(self, one: Tracked, ended_at: float) -> None:
        name, clock = one.spec.name, self.means.clock
        pause_s = remaining(self._back_offs.get(name), ended_at, clock.monotonic())
        if pause_s > 0:
            place = f"{name} in pod {self.pod.name}_{self.pod.namespace}({self.pod.uid})"
            one.phase, one.reason = WAITING, LOOP
            one.message = f"back-off {self._back_offs[name].pause_s:g}s restarting failed container={name} pod={self.pod.name}_{self.pod.namespace}({self.pod.uid})"
            self._event(WARNING, "BackOff", f"Back-off restarting failed container {place}")
            await clock.sleep(pause_s)
        self._back_offs[name] = advance(self._back_offs.get(name), ended_at, clock.monotonic())

    async def _attempt(self, one: Tracked, *, init: bool) -> bool:
        """One run, from start (or adoption) to end; returns False when the pod is being stopped instead."""
        adopted = one.phase == RUNNING
        if init and one.spec.kind == STAND_IN:  # what it would have prepared, nobody can know
            now = self.means.now_ms()
            one.runs(now)
            one.ends(
                Exit(0, 0, now, now, "Completed", "stand-in: an init container of an unknown image succeeds at once")
            )
            self.changed()
            return True
        if not adopted:
            async with self._starting.setdefault(one.spec.name, asyncio.Lock()):
                if self.stopping:
                    return False
                await self._start(one)
        if one.phase == RUNNING:
            self.changed()
            run = one.run_id(self.pod.uid)
            with self._probed(one, adopted=adopted):
                end = await self._ended(one, run)
            one.ends(end)
        self.changed()
        return True

    async def _ended(self, one: Tracked, run: RunId) -> Exit:
        try:
            end = await self.means.runner(one.spec.kind).wait(run, self.means.records.directory(run))
            if end.started_unix_ms or not one.started_ms:
                return end
            end = replace(end, started_unix_ms=one.started_ms)  # who wrote it did not know; the next agent should
            self.means.records.amend(run, end)
            return end
        except NotFound as error:  # it went with its node, or with its waiter's record
            now = self.means.now_ms()
            return Exit(137, 9, one.started_ms, now, LOST, str(error))

    async def _start(self, one: Tracked) -> None:
        try:
            failpoint("container.starting")
            await self.means.runner(one.spec.kind).start(self.container_run(one))
        except PodwireError as error:
            self._event(WARNING, "Failed", f"Error: {error.message}")
            now = self.means.now_ms()
            one.ends(Exit(128, 0, now, now, START_ERROR, error.message))
            return
        one.runs(self.means.now_ms())
        one.started = one.spec.startup is None
        one.ready = one.started and one.spec.readiness is None
        self._event(NORMAL, "Created", f"Created container: {one.spec.name}", announce=False)
        self._event(NORMAL, "Started", f"Started container {one.spec.name}", announce=False)

    @contextmanager
    def _probed(self, one: Tracked, *, adopted: bool) -> Iterator[None]:
        """Watches a running container with its probes."""
        if not is_probed(one.spec):
            yield
            return
        task = asyncio.ensure_future(
            keep_probing(one, partial(self._ask, one), self.means.clock, self, adopted=adopted)
        )
        task.add_done_callback(self._report_fault)
        try:
            yield
        finally:
            task.cancel()

    async def _ask(self, one: Tracked, spec: ProbeSpec) -> Result:
        run = self.container_run(one)
        address = self.pod.addresses[0] if self.pod.addresses else "127.0.0.1"
        return await self.means.checker.check(spec, address, lambda argv: self.means.execute(run, argv))

    def probe_failed(self, one: Tracked, name: str, result: Result, *, fatal: bool) -> None:
        """A probe failed once; when `fatal`, often enough to restart the container."""
        self._event(WARNING, "Unhealthy", f"{name.capitalize()} probe failed: {result.detail}")
        if fatal and not self.stopping and one.phase == RUNNING:
            self._event(NORMAL, "Killing", f"Container {one.spec.name} failed {name} probe, will be restarted")
            self._kill(one, float(self.pod.termination_grace_s))

    def _kill(self, one: Tracked, grace_s: float) -> None:
        """Stops one run; whoever waits for its end goes on from there."""
        run, runner = one.run_id(self.pod.uid), self.means.runner(one.spec.kind)
        task = asyncio.ensure_future(runner.stop(run, grace_s))
        self._kills.add(task)
        task.add_done_callback(self._kills.discard)

    async def stop(self, grace_s: float) -> None:
        """TERM to all containers at once, KILL after the grace; returns when none runs. A shorter grace may be asked for later."""
        announced, self.stopping = self.stopping, True
        await asyncio.gather(*(self._stop_one(one, grace_s, quiet=announced) for one in (*self.init, *self.containers)))
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.changed()

    async def _stop_one(self, one: Tracked, grace_s: float, *, quiet: bool) -> None:
        async with self._starting.setdefault(one.spec.name, asyncio.Lock()):
            if one.phase != RUNNING:
                return
        if not quiet:
            self._event(NORMAL, "Killing", f"Stopping container {one.spec.name}")
        run = one.run_id(self.pod.uid)
        await self.means.runner(one.spec.kind).stop(run, grace_s)
        end = await self._ended(one, run)
        if one.phase == RUNNING and one.run_id(self.pod.uid) == run:
            one.ends(end)

    def _event(self, kind: str, reason: str, message: str, *, announce: bool = True) -> None:
        self.events.add(kind, reason, message, self.means.now_ms())
        if announce:
            self.changed()

    def changed(self) -> None:
        """The report would differ from now on."""
        if not self.stopping:
            self.means.records.remember(self.pod.uid, self.sandbox, self.started_ms, (*self.init, *self.containers))
        self.means.changed(self.pod.uid)
