"""The level-triggered loops: what the store says and what agents say, turned into what the store should say.

In: snapshot changes (from `follow`) and agents' words (from `sessions`). Out: work for the loops below; each is woken by an event, looks
at everything that may concern it, and goes back to sleep. None of them keeps what the store does not: after a crash they start from
the snapshot.

    binding    pods without a node or an address        nodes      registration, readiness, silence, deletion
    reporting  status, final removal, released addresses garbage    namespaces being emptied, dependents of owners that are gone
"""

from __future__ import annotations

import asyncio

from controller.binding import Binder
from controller.config import Settings
from controller.events import Events
from controller.follow import Follower
from controller.nodes import Nodes
from controller.objects.registry import Registry
from controller.recovery import Recovery
from controller.reporting import Reporting
from controller.sessions import Hub, Refuse
from controller.snapshot import Snapshot, Touched
from podwire.aio import Backoff, Supervisor
from podwire.api.v1 import node_sync_pb2 as sync
from podwire.api.v1 import state_pb2 as state
from podwire.errors import AlreadyExists
from podwire.seams import Clock, Rng
from podwire.waiting import event_within

BACKOFF = Backoff(first_s=0.2, longest_s=5.0)
GARBAGE_QUIET_S = 0.2  # one look at everything for many deletions
NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


class Reconciler:
    """All loops of one controller, and the `Listener` of its sessions."""

    def __init__(
        self, *, registry: Registry, follower: Follower, hub: Hub, clock: Clock, rng: Rng, settings: Settings
    ) -> None:
        snapshot = follower.snapshot
        self._registry = registry
        self._follower = follower
        self._snapshot: Snapshot = snapshot
        self._hub = hub
        self._clock = clock
        self._rng = rng
        self._settings = settings
        self.events = Events(registry.store, clock, rng, keep=settings.events_kept, accepts=self._namespace_is_live)
        self.binder = Binder(snapshot, registry, clock, self.events)
        self.reporting = Reporting(snapshot, registry, clock, self.events)
        self.nodes = Nodes(snapshot, registry, hub, clock=clock, events=self.events, settings=settings)
        self._recovery = Recovery(
            store=registry.store,
            registry=registry,
            snapshot=snapshot,
            clock=clock,
            settings=settings.recovery,
            register=self.nodes.register,
        )
        self._status_due: set[str] = set()
        self._node_due = asyncio.Event()
        self._sweep_due = asyncio.Event()
        self._garbage_due = asyncio.Event()
        follower.listen(self._touched)

    # The loops

    async def prepare(self) -> None:
        """What must be there before anyone is served."""
        await self.events.load()
        for name in NAMESPACES:
            if name not in self._snapshot.namespaces:
                try:
                    await self._registry.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
                except AlreadyExists:
                    continue
        self._sweep_due.set()
        self._garbage_due.set()

    async def run(self) -> None:
        """Runs all loops until cancelled; one that fails starts over."""
        async with Supervisor(clock=self._clock, rng=self._rng, backoff=BACKOFF) as tasks:
            tasks.keep("follow", self._follower.run)
            tasks.keep("binding", self.binder.run)
            tasks.keep("reporting", self.reporting.run)
            tasks.keep("nodes", self._watch_nodes)
            tasks.keep("sweep", self._sweep)
            tasks.keep("garbage", self._collect)
            tasks.keep("events", self._flush_events)
            try:
                await asyncio.Event().wait()
            finally:
                await self._recovery.close()

    async def _watch_nodes(self) -> None:
        while True:
            await event_within(self._clock, self._settings.node_tick_s, self._node_due)
            self._node_due.clear()
            due, self._status_due = self._status_due, set()
            for node in sorted(due & self._snapshot.nodes.keys()):
                await self.nodes.write_status(node)
            self.reporting.silent(await self.nodes.tick())

    async def _sweep(self) -> None:
        while True:
            await self._sweep_due.wait()
            self._sweep_due.clear()
            await self.nodes.sweep()

    async def _collect(self) -> None:
        while True:
            await self._garbage_due.wait()
            await self._clock.sleep(GARBAGE_QUIET_S)
            self._garbage_due.clear()
            await self._registry.collect()

    async def _flush_events(self) -> None:
        while True:
            await self._clock.sleep(self._settings.event_flush_s)
            if self.events.pending:
                await self.events.flush()

    # What wakes them

    def _touched(self, touched: Touched) -> None:
        self._hub.touched(touched)
        self.binder.touched(touched)
        if touched.freed:
            self.nodes.freed()
        gone_nodes = touched.nodes - self._snapshot.nodes.keys()
        for node in gone_nodes:
            self._hub.drop(node, f"node {node} was deleted")
            self.nodes.loss.forget(node)
        gone_pods = touched.pods - self._snapshot.pods.keys()
        self.reporting.forget(gone_pods)
        if gone_nodes or any(self._is_stranded(uid) for uid in touched.pods):
            self._sweep_due.set()
        if gone_pods or gone_nodes or any(not self._namespace_is_live(name) for name in touched.namespaces):
            self._garbage_due.set()

    def _is_stranded(self, uid: str) -> bool:
        """Whether a pod is to go from a node that is not there."""
        pod = self._snapshot.pods.get(uid)
        return pod is not None and pod.view.terminating and pod.node not in self._snapshot.nodes

    def _namespace_is_live(self, name: str) -> bool:
        doc = self._snapshot.namespaces.get(name)
        return doc is not None and "deletionTimestamp" not in doc["metadata"]

    # What agents say

    async def admit(self, node: str, hello: sync.Hello, refuse_for_now: Refuse) -> None:
        """See `sessions.Listener`."""
        revision = await self._recovery.settle(node, hello, refuse_for_now)
        await self._follower.reached(revision)
        self.reporting.inventory(node, hello.inventory)

    def reported(self, node: str, report: state.NodeReport) -> None:
        """See `sessions.Listener`."""
        self.reporting.reported(node, report)
        known = self._snapshot.nodes.get(node)
        if known and report.underlay_addresses and tuple(report.underlay_addresses) != known.view.underlay_addresses:
            self._status_due.add(node)
            self._node_due.set()

    def heard(self, node: str) -> None:
        """See `sessions.Listener`."""
        if self.nodes.loss.heard(node, self._clock.monotonic()):
            self._node_due.set()

    def synced(self, node: str) -> None:
        """See `sessions.Listener`."""
        self._status_due.add(node)
        self._node_due.set()
