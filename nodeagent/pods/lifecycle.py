"""The containers of all pods of a node: what the agent's core calls.

In: pods whose sandbox is wired (`ensure`), and orders to stop or forget them. Out: running containers, reports, and a call of
`on_change` whenever a report would differ. Sandboxes and networking are the core's; one pod's life is `podlife.py`. Everything here is
rebuilt after a restart: `adopt` asks the runners what runs, and `ensure` takes up each pod where it stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

from nodeagent.kernel.base import Sandbox
from nodeagent.pods.base import ContainerRun, Runner
from nodeagent.pods.exec import ExecRunner
from nodeagent.pods.logs import LogSource
from nodeagent.pods.pod import pod_from_proto
from nodeagent.pods.podlife import Means, PodLife
from nodeagent.pods.podreport import RUNNING, pod_report
from nodeagent.pods.probes import Checker, NetworkChecker
from nodeagent.pods.records import Records
from nodeagent.pods.runs import NodeFacts
from podwire.api.v1 import state_pb2 as state
from podwire.errors import NotFound, Unsupported
from podwire.seams import Clock, Disk

OUTPUT_KEPT_BYTES = 4096  # of a probe's command


class PodLifecycles:
    """All pods of one node."""

    def __init__(
        self,
        *,
        hosted: Runner,
        process: Runner,
        clock: Clock,
        disk: Disk,
        state_dir: Path,
        run_dir: Path,
        node: Callable[[], NodeFacts],
        on_change: Callable[[str], None],
        exec_runner: ExecRunner | None = None,
        checker: Checker | None = None,
        passing: Disk | None = None,
    ) -> None:
        self._runners = (hosted, process)
        self._records = Records(disk, state_dir, run_dir, clock, passing)
        self._means = Means(
            hosted=hosted,
            process=process,
            records=self._records,
            clock=clock,
            checker=checker or NetworkChecker(clock),
            execute=partial(_execute, exec_runner),
            node=node,
            changed=on_change,
        )
        self._lives: dict[str, PodLife] = {}
        self._messages: dict[str, state.PodState] = {}
        self._moves: set[asyncio.Task[None]] = set()

    async def adopt(self) -> None:
        """Asks the runners what runs; call once, before the first `ensure`."""
        for runner in self._runners:
            self._records.running |= await runner.running()

    def ensure(self, pod: state.PodState, sandbox: Sandbox) -> None:
        """The pod's network is up: run its containers. Repeating it is free; another sandbox than before means all anew in there."""
        life = self._lives.get(pod.uid)
        if life is not None and life.sandbox == sandbox:
            known = self._messages[pod.uid]
            if known is not pod and known != pod:
                life.pod = pod_from_proto(pod)
                self._messages[pod.uid] = pod
            return
        self._messages[pod.uid] = pod
        if life is not None:
            del self._lives[pod.uid]
            task = asyncio.ensure_future(self._move(life, pod, sandbox))
            self._moves.add(task)
            task.add_done_callback(self._moves.discard)
            return
        self._begin(pod, sandbox)

    def _begin(self, pod: state.PodState, sandbox: Sandbox) -> None:
        life = PodLife(self._means, pod_from_proto(pod), sandbox)
        self._lives[pod.uid] = life
        life.begin()

    async def _move(self, life: PodLife, pod: state.PodState, sandbox: Sandbox) -> None:
        if life.stopping:
            return
        await life.abandon()
        tracked = (*life.init, *life.containers)
        self._records.running |= {one.run_id(pod.uid) for one in tracked if one.phase == RUNNING}
        self._begin(pod, sandbox)

    async def stop(self, uid: str, grace_s: float) -> None:
        """Stops a pod's containers, TERM first; returns when none runs. A pod that never ran, or an unknown one, is no error."""
        await asyncio.gather(*self._moves, return_exceptions=True)
        life = self._lives.get(uid)
        if life is not None:
            await life.stop(grace_s)
        orphans = self._records.orphans(uid)
        await asyncio.gather(*(runner.stop(run, grace_s) for run in orphans for runner in self._runners))
        self._records.running -= set(orphans)

    def forget(self, uid: str) -> None:
        """Nothing of the pod is left: its files go. Only after `stop`."""
        life = self._lives.pop(uid, None)
        self._messages.pop(uid, None)
        self._records.forget(uid, (*life.init, *life.containers) if life else ())

    def known(self) -> frozenset[str]:
        """Pods that have containers or files here."""
        return frozenset(self._lives.keys() | self._records.known())

    def report(self, uid: str) -> state.PodReport | None:
        """How its containers are; None for a pod that has none yet."""
        life = self._lives.get(uid)
        if life is None:
            return None
        return pod_report(
            life.pod, life.init, life.containers, life.events.kept, started_ms=life.started_ms, stopped=life.stopping
        )

    def container_run(self, uid: str, container: str = "") -> ContainerRun:
        """The present run of a container (the first, when none is named), for exec.

        Raises:
            NotFound: there is no such pod or container here.
        """
        life = self._life(uid)
        return life.container_run(life.tracked(container))

    def log_source(self, uid: str, container: str = "", *, previous: bool = False) -> LogSource:
        """Where a container's log is (the first's, when none is named), and whether more may come; raises NotFound."""
        life = self._life(uid)
        one = life.tracked(container)
        run = one.run_id(uid)
        return LogSource(self._records.directory(run).with_suffix(""), previous, gone=lambda: life.is_over(one))

    def _life(self, uid: str) -> PodLife:
        life = self._lives.get(uid)
        if life is None:
            raise NotFound(f"pod {uid} does not run on this node")
        return life

    async def close(self) -> None:
        """Lets go of all pods; their containers go on."""
        await asyncio.gather(*(life.abandon() for life in self._lives.values()))
        await asyncio.gather(*self._moves, return_exceptions=True)


async def _execute(commands: ExecRunner | None, run: ContainerRun, argv: tuple[str, ...]) -> tuple[int, str]:
    """A probe's command, to its end; raises PodwireError."""
    if commands is None:
        raise Unsupported(f"this agent cannot run {argv[0]!r} in container {run.id.container}")
    output = b""
    async with await commands.start(run, argv) as session:
        async for piece in session.output():
            output = (output + piece.data)[:OUTPUT_KEPT_BYTES]
        return await session.wait(), output.decode(errors="replace")
