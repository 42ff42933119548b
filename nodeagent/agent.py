"""The agent's loop: observe → diff → apply → read back, for one node.

In: a `Desired` from `sync.py`, hints that something changed (the kernel's notifications, a container's life, a timer), and the kernel
itself. Out: a node that is as desired, and reports. Level-triggered: hints only say "look now"; what is done follows from one reading.
Between readings the agent trusts what it has just done, so that a burst of pods costs no reading per batch; every reading that finds
something else than expected is drift, and is mended and reported. The order of removing a pod: containers stop, then fence, then
sandbox, and only when nothing is left is the controller told, which frees the address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from nodeagent.apply import Applied, Applier, Threads
from nodeagent.config import ENDS_EVERY_S, LOOK_AGAIN_S, RESYNC_S, RETRY_S, WARM_AFTER_S
from nodeagent.departures import Departures
from nodeagent.desired import Assembler, Desired
from nodeagent.diff import View, diff
from nodeagent.drift import Drift
from nodeagent.journal import Journal, Record
from nodeagent.kernel.base import (
    Failure,
    Kernel,
    NodeNetwork,
    Observed,
    ObservedPodEnd,
    PodLink,
    Sandbox,
    Sandboxes,
)
from nodeagent.operations import AdoptSandbox, MakeSandbox, Operation, WirePod
from nodeagent.planned import Planned, Underlay
from nodeagent.slots import Slots
from podwire.api.v1 import state_pb2 as state
from podwire.errors import KernelError
from podwire.seams import Clock, failpoint
from podwire.telemetry import logger
from podwire.waiting import event_within

log = logger(__name__)

READ_BACK_S = 0.05  # after something was removed: the kernel cleans namespaces up in some 20 ms
SHORTEST_PAUSE_S = 0.001  # a shorter one may be no time at all to the clock
CLEANING_S = 5.0  # a link that outlives its sandbox by this long is an orphan, to be deleted by name


class PodLives(Protocol):
    """The containers of pods; `nodeagent.pods.lifecycle` is the real one."""

    def ensure(self, pod: state.PodState, sandbox: Sandbox) -> None:
        """The pod's network is up: run its containers. Repeating it is free."""

    def stop(self, uid: str, grace_s: float) -> Awaitable[None]:
        """Ends when no container of the pod runs any more; a pod that never ran ends at once."""

    def forget(self, uid: str) -> None:
        """Nothing of the pod is left: its files may go."""

    def known(self) -> frozenset[str]:
        """Pods that have containers or files here."""

    def report(self, uid: str) -> state.PodReport | None:
        """How its containers are; None for a pod that has none yet."""


@dataclass(slots=True)
class Reading:
    """The last reading of the kernel, brought up to date with what was done since."""

    underlay: Underlay
    network: NodeNetwork
    observed: Observed
    sandboxes: dict[str, Sandbox]  # by slot
    ends: dict[str, ObservedPodEnd]
    at: float
    ends_at: float
    wired: set[str] = field(default_factory=set)  # UIDs that are right: read, or done by us since


class NodeAgent:
    """One node. `run` ends only by cancellation; everything it holds in memory can be rebuilt from disk and kernel."""

    def __init__(
        self,
        *,
        kernel: Kernel,
        sandboxes: Sandboxes,
        lives: PodLives,
        threads: Threads,
        assembler: Assembler,
        slots: Slots,
        journal: Journal,
        clock: Clock,
        warm_sandboxes: int,
    ) -> None:
        self._kernel = kernel
        self._sandboxes = sandboxes
        self._lives = lives
        self._threads = threads
        self._applier = Applier(kernel, sandboxes, threads, self._start)
        self._assembler = assembler
        self._slots = slots
        self._journal = journal
        self._clock = clock
        self._warm_wanted = warm_sandboxes
        self._wake = asyncio.Event()
        self._look_by = float("-inf")  # read the kernel no later than this
        self._reading: Reading | None = None
        self._departures = Departures(lives.stop, clock, self.wake)
        self.drift = Drift(clock)
        self._intents: list[Record] = []  # slots given to pods and not yet durable
        self._retry_s = RETRY_S
        self._planned = Planned()
        self._acted_at = float("-inf")
        self._cleaning: dict[str, float] = {}  # slots dropped, and when: the kernel takes a moment to follow
        self.pod_errors: dict[str, str] = {}
        self.errors: list[str] = []
        self.underlay_addresses: list[str] = []
        self._owes_ack = False
        self.applied_at = float("-inf")
        self.turned = asyncio.Event()  # the first turn is done: what runs here is known
        self.on_report: list[ReportSink] = []

    # --- what others tell the loop -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something may be to do."""
        self._wake.set()

    def planned(self) -> None:
        """The controller spoke, if only to say that nothing changed: do what it says, and acknowledge."""
        self._owes_ack = True
        self._wake.set()

    def look(self) -> None:
        """The kernel says that something changed: read it soon, but not for each of a burst of hints."""
        due = self._clock.monotonic() + LOOK_AGAIN_S
        if due < self._look_by:
            self._look_by = due
            self._wake.set()

    # --- what others ask -----------------------------------------------------------------------------------------------------------

    @property
    def reading(self) -> Reading | None:
        """The last reading, for reports."""
        return self._reading

    def gone(self) -> list[str]:
        """Pods that were ordered gone and of which nothing is left."""
        return sorted(self._departures.gone)

    def sandbox_of(self, uid: str) -> Sandbox | None:
        """The live sandbox of a pod, if it has one that is wired."""
        reading = self._reading
        if reading is None or uid not in reading.wired:
            return None
        sandbox = reading.sandboxes.get(self._slots.slot_of(uid) or "")
        return sandbox if sandbox is not None and sandbox.pid else None

    # --- the loop ------------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reconciles until cancelled; stops of containers under way are cancelled with it and taken up again by the next agent."""
        try:
            while True:
                self._wake.clear()
                try:
                    pause = await self.reconcile()
                except KernelError as error:
                    self.errors = [error.message]
                    self._look_by = float("-inf")
                    log.warning("reading_failed", reason=error.message)
                    pause = self._back_off()
                self.turned.set()
                await event_within(self._clock, pause, self._wake)
        finally:
            await self._departures.close()

    async def reconcile(self) -> float:
        """One turn. Returns the seconds until the next is due even if nobody wakes the loop."""
        desired = self._assembler.desired
        if not desired.known:
            return RESYNC_S
        now = self._clock.monotonic()
        reading = self._reading
        was_read = (
            reading is None
            or now >= self._look_by
            or self._planned.network(desired, reading.underlay) != reading.network
        )
        if reading is None or was_read:
            reading = await self._read(desired)
        self._departures.order(self._graces(desired))
        view = self._view(desired, reading)
        operations = diff(view)
        if self._intents:
            self._journal.append(self._intents)  # intent before effect: a batch, one sync
            self._intents = []
            failpoint("agent.intent_durable")
        drifted = self.drift.found(operations, view.network, view.observed, self._pod_name) if was_read else []
        applied = await self._applier.apply(operations) if operations else Applied()
        self._remember(reading, view, operations, applied)
        self.drift.mended(drifted, failed=applied.failed)
        if not applied.failed:
            self.drift.right(view.network, reading.wired)
        self._start_containers(reading)
        self._finish_departures(reading)
        self._settle(desired, applied, operations)
        if operations:
            self._acted_at = now
        idle_at = self._acted_at + WARM_AFTER_S
        if now >= idle_at:
            await self._make_warm(reading)
            idle_at = float("inf")
        if applied.failed:
            self._look_by = self._clock.monotonic()
            return self._back_off()
        self._retry_s = RETRY_S
        return max(SHORTEST_PAUSE_S, min(self._look_by, idle_at) - self._clock.monotonic())

    def _back_off(self) -> float:
        pause = self._retry_s
        self._retry_s = min(self._retry_s * 2, RESYNC_S)
        return pause

    async def _read(self, desired: Desired) -> Reading:
        wiring, making = self._threads.wiring, self._threads.making
        now = self._clock.monotonic()
        self._look_by = now + RESYNC_S  # set first: a hint that comes while we read asks for another reading
        link, addresses, mtu = await wiring(self._kernel.underlay)
        now_at = [str(address) for address in addresses]
        news = self._reading is None or self._reading.underlay[2] != mtu or now_at != self.underlay_addresses
        self.underlay_addresses = now_at
        underlay = link, addresses[0], mtu
        network = self._planned.network(desired, underlay)
        observed = await wiring(self._kernel.observe, network)
        sandboxes = {sandbox.slot: sandbox for sandbox in await making(self._sandboxes.existing)}
        self._slots.learn(observed.pods)
        old = self._reading
        ends: dict[str, ObservedPodEnd] = old.ends if old else {}
        ends_at = old.ends_at if old else float("-inf")
        if now - ends_at >= ENDS_EVERY_S:
            alive = [sandbox for sandbox in sandboxes.values() if sandbox.pid and self._slots.owners.get(sandbox.slot)]
            results = await wiring(self._kernel.observe_ends, alive)
            ends = {end.slot: end for end in results if not isinstance(end, Failure)}
            ends_at = now
        reading = self._reading = Reading(underlay, network, observed, sandboxes, ends, now, ends_at)
        if news:
            self._tell(())  # once the reading, which the report is made from, is there
        self._cleaning = {slot: since for slot, since in self._cleaning.items() if now - since < CLEANING_S}
        return reading

    def _view(self, desired: Desired, reading: Reading) -> View:
        network = reading.network
        sandboxes = tuple(reading.sandboxes.values())
        slots, fresh = self._slots.of((uid for uid in desired.pods if self._is_wanted(uid, desired)), sandboxes)
        self._intents += fresh
        links = self._planned.links(network, desired.pods, slots)
        return View(
            network=network,
            pods=links,
            hostnames={uid: desired.pods[uid].hostname or desired.pods[uid].name for uid in links},
            leaving=self._departures.leaving,
            observed=reading.observed,
            sandboxes=sandboxes,
            ends=reading.ends,
            owners=dict(self._slots.owners),
            may_sweep=self._assembler.live,
            assumed=frozenset(reading.wired),
            cleaning=frozenset(self._cleaning),
        )

    def _is_wanted(self, uid: str, desired: Desired) -> bool:
        """A pod that ends keeps its network until its containers are gone, but is not given one anew."""
        if self._departures.has_left(uid):
            return False
        if not desired.pods[uid].terminating:
            return True
        return self.sandbox_of(uid) is not None

    # --- leaving -------------------------------------------------------------------------------------------------------------------

    def _graces(self, desired: Desired) -> dict[str, float]:
        """Who must go, and the grace each has. What nobody named goes only after a complete snapshot."""
        graces = dict.fromkeys(desired.removing, 0.0)
        if self._assembler.live:
            here = {uid for uid in self._slots.owners.values() if uid} | self._lives.known()
            graces |= dict.fromkeys(here - set(desired.pods), 0.0)
        return graces | {uid: float(pod.termination_grace_s) for uid, pod in desired.pods.items() if pod.terminating}

    def _finish_departures(self, reading: Reading) -> None:
        held = {self._slots.owners.get(slot, "") for slot in reading.sandboxes} | {
            link.uid for link in reading.observed.pods
        }
        done = self._departures.finish(held)
        if self._departures.leaving:  # the kernel takes a moment to follow
            self._look_by = min(self._look_by, self._clock.monotonic() + READ_BACK_S)
        if not done:
            return
        slots = [slot for slot, owner in self._slots.owners.items() if owner in done]
        self._journal.append([*self._slots.forget(slots), *self._assembler.removed(done)])
        for uid in done:
            self._lives.forget(uid)
            self.pod_errors.pop(uid, None)
        self._tell(done)

    # --- coming and staying ----------------------------------------------------------------------------------------------------------

    def _remember(self, reading: Reading, view: View, operations: Sequence[Operation], applied: Applied) -> None:
        """Brings the last reading up to date with what was done, so that the next turn needs no new one."""
        for sandbox in applied.made.values():
            reading.sandboxes[sandbox.slot] = sandbox
            reading.ends.pop(sandbox.slot, None)
        now = self._clock.monotonic()
        for slot in applied.dropped:
            reading.sandboxes.pop(slot, None)
            reading.ends.pop(slot, None)
            self._cleaning[slot] = now
        leaving = self._departures.leaving
        self._journal.append(
            self._slots.forget(slot for slot in applied.dropped if self._slots.owners.get(slot) not in leaving)
        )
        touched = {op.link.uid for op in operations if isinstance(op, WirePod)}
        for uid in touched:
            reading.ends.pop(view.pods[uid].slot, None)
        reading.wired = (set(view.pods) - touched) | applied.wired
        if applied.dropped:
            self._look_by = min(self._look_by, now + READ_BACK_S)
        elif any(not isinstance(op, MakeSandbox | AdoptSandbox | WirePod) for op in operations):
            self._look_by = now  # the node itself changed: read back at once

    def _start_containers(self, reading: Reading) -> None:
        by_uid = {
            self._slots.owners.get(slot, ""): sandbox for slot, sandbox in reading.sandboxes.items() if sandbox.pid
        }
        for uid in reading.wired:
            if uid in by_uid:
                self._start(uid, by_uid[uid])

    def _start(self, uid: str, sandbox: Sandbox) -> None:
        """A pod's network is up: its containers may run. Repeating it is free."""
        pod = self._assembler.desired.pods.get(uid)
        if pod is not None and not pod.terminating:
            self._lives.ensure(pod, sandbox)

    def _settle(self, desired: Desired, applied: Applied, operations: Sequence[Operation]) -> None:
        errors = {uid: error.message for uid, error in applied.pod_errors.items()}
        changed = set(errors.items()) ^ set(self.pod_errors.items())
        self.pod_errors = errors
        self.errors = [error.message for error in applied.errors]
        touched = {uid for uid, _ in changed}  # of a pod that was wired, its containers will tell
        if touched or self.drift.pending:
            self._tell(touched)
        if not applied.failed:
            self.applied_at = self._clock.monotonic()
        if self._owes_ack or operations:
            self._owes_ack = False
            error = next(iter([*self.errors, *self.pod_errors.values()]), "")
            for sink in self.on_report:
                sink.note_applied(desired.epoch, desired.revision, error)

    async def _make_warm(self, reading: Reading) -> None:
        have = sum(1 for slot, uid in self._slots.owners.items() if not uid and slot in reading.sandboxes)
        if have >= self._warm_wanted:
            return
        slots, records = self._slots.warm(self._warm_wanted - have)
        self._journal.append(records)
        results = await self._threads.making(self._sandboxes.create, [(slot, "") for slot in slots])
        for result in results:
            if not isinstance(result, Failure):
                reading.sandboxes[result.slot] = result

    def _pod_name(self, link: PodLink) -> str:
        pod = self._assembler.desired.pods.get(link.uid)
        return f"{pod.namespace}/{pod.name}" if pod is not None else link.uid

    def _tell(self, uids: Iterable[str]) -> None:
        for sink in self.on_report:
            sink.note_changed(uids)


class ReportSink(Protocol):
    """Who is told of changes: the stream."""

    def note_changed(self, uids: Iterable[str]) -> None:
        """These pods look different now."""

    def note_applied(self, epoch: int, revision: int, error: str) -> None:
        """The kernel agrees with this revision, or does not and here is why."""
