"""Pure: a pod's containers as they are tracked → the `PodReport` that the controller gets.

In: `Tracked` values, which `podlife.py` keeps. Out: protobuf. Phases follow the kubelet's rules: a pod is Pending until every container
has started once, and a container that will be restarted keeps its pod Running.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from nodeagent.pods.base import Exit, RunId
from nodeagent.pods.pod import ALWAYS, KIND_NUMBERS, ON_FAILURE, Container, Pod
from podwire.api.v1 import state_pb2 as state

WAITING, RUNNING, TERMINATED = "waiting", "running", "terminated"
_PHASES = {
    WAITING: state.CONTAINER_PHASE_WAITING,
    RUNNING: state.CONTAINER_PHASE_RUNNING,
    TERMINATED: state.CONTAINER_PHASE_TERMINATED,
}
EVENTS_KEPT = 32


@dataclass(slots=True)
class Tracked:
    """One container: the run it is at, and the one before. Attempts are never reused, so the attempt is the restart count."""

    spec: Container
    attempt: int = 0
    phase: str = WAITING
    reason: str = "ContainerCreating"
    message: str = ""
    started: bool = False  # its startup probe, if any, has succeeded
    ready: bool = False
    started_ms: int = 0
    end: Exit | None = None  # of this attempt
    last: Exit | None = None  # of the attempt before

    def run_id(self, uid: str) -> RunId:
        """The present run."""
        return RunId(uid, self.spec.name, self.attempt)

    def runs(self, now_ms: int) -> None:
        """It runs."""
        self.phase, self.reason, self.message, self.end = RUNNING, "", "", None
        self.started_ms = self.started_ms or now_ms

    def ends(self, end: Exit) -> None:
        """It has ended."""
        self.phase, self.ready, self.started = TERMINATED, False, False
        self.reason, self.message = end.reason or ("Completed" if end.code == 0 else "Error"), end.message
        self.end = end

    def next_attempt(self) -> None:
        """Another run begins."""
        self.last, self.end = self.end, None
        self.attempt += 1
        self.started_ms = 0
        self.phase, self.reason, self.message = WAITING, "ContainerCreating", ""


@dataclass(slots=True)
class Events:
    """The newest things that happened to a pod. The controller knows an event by reason, message and time, so resending is harmless."""

    kept: list[state.EventReport] = field(default_factory=list)

    def add(self, kind: str, reason: str, message: str, now_ms: int) -> None:
        """Remembers one; the oldest goes."""
        self.kept.append(state.EventReport(type=kind, reason=reason, message=message, unix_ms=now_ms))
        del self.kept[:-EVENTS_KEPT]


def phase(
    pod: Pod, init: Sequence[Tracked], containers: Sequence[Tracked], *, stopped: bool
) -> state.PodPhase.ValueType:
    """The pod's phase; `stopped` means that nothing will be started again."""
    failed_init = any(one.phase == TERMINATED and one.end and one.end.code for one in init)
    if any(one.phase != TERMINATED or (one.end and one.end.code) for one in init):
        final = failed_init and (stopped or pod.restart_policy not in (ALWAYS, ON_FAILURE))
        return state.POD_PHASE_FAILED if final else state.POD_PHASE_PENDING
    if any(one.phase == WAITING and one.attempt == 0 and one.end is None for one in containers):
        return state.POD_PHASE_FAILED if stopped else state.POD_PHASE_PENDING
    if any(one.phase != TERMINATED for one in containers):
        return state.POD_PHASE_RUNNING
    failed = any(one.end and one.end.code for one in containers)
    if not stopped and (pod.restart_policy == ALWAYS or (pod.restart_policy == ON_FAILURE and failed)):
        return state.POD_PHASE_RUNNING
    return state.POD_PHASE_FAILED if failed else state.POD_PHASE_SUCCEEDED


def pod_report(
    pod: Pod,
    init: Sequence[Tracked],
    containers: Sequence[Tracked],
    events: Iterable[state.EventReport],
    *,
    started_ms: int,
    stopped: bool,
) -> state.PodReport:
    """The whole report; everything in it is as of now."""
    waiting = next((one for one in (*init, *containers) if one.phase == WAITING and one.message), None)
    return state.PodReport(
        uid=pod.uid,
        namespace=pod.namespace,
        name=pod.name,
        generation=pod.generation,
        addresses=pod.addresses,
        phase=phase(pod, init, containers, stopped=stopped),
        containers=[_container(one) for one in containers],
        init_containers=[_container(one, initial=True) for one in init],
        started_unix_ms=started_ms,
        events=events,
        message=waiting.message if waiting else "",
        reason=waiting.reason if waiting else "",
    )


def _container(one: Tracked, *, initial: bool = False) -> state.ContainerReport:
    """An init container is ready once it has succeeded, as Kubernetes has it."""
    succeeded = initial and one.phase == TERMINATED and one.end is not None and one.end.code == 0
    report = state.ContainerReport(
        name=one.spec.name,
        phase=_PHASES[one.phase],
        ready=one.ready or succeeded,
        started=one.started,
        restart_count=one.attempt,
        reason=one.reason,
        message=one.message,
        started_unix_ms=one.started_ms,
        kind=KIND_NUMBERS[one.spec.kind],
    )
    if one.end is not None:
        report.exit_code, report.signal = one.end.code, one.end.signal
        report.finished_unix_ms = one.end.finished_unix_ms
    last = one.end if one.phase == WAITING and one.end else one.last
    if last is not None:
        report.last.exit_code, report.last.signal, report.last.reason = last.code, last.signal, last.reason
        report.last.started_unix_ms, report.last.finished_unix_ms = last.started_unix_ms, last.finished_unix_ms
    return report
