"""Rebuilding a store that was wiped, or restored from a backup, from what agents hold.

In: the Hello of an agent that last applied the state of another store, or a later revision of ours. Out: its Node with the ranges it
had, its pods and their addresses, in the store, which goes on above the highest revision that any agent has seen.

An empty store waits for all its agents before it speaks to one: a mesh compiled from the first alone would cut it off from the
others. It stops waiting when every node of the Cluster document has been heard and no other came for a moment, or at a deadline; who
comes later is taken in alone. Nothing that an agent holds is overwritten, and nothing is given twice: a contradiction is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from controller.config import RecoverySettings
from controller.ipam import ADDRESSES, Allocation, Operations, claim
from controller.objects.keys import object_key
from controller.objects.registry import Registry
from controller.snapshot import Snapshot
from controller.store.base import Absent, Put, Store
from podwire.api.v1 import node_sync_pb2 as sync
from podwire.api.v1 import state_pb2 as state
from podwire.errors import AlreadyExists, Conflict
from podwire.seams import Clock, failpoint
from podwire.waiting import event_within

log = structlog.get_logger(__name__)

Register = Callable[[str, sync.Hello], Awaitable[int]]
"""Makes the Node with the ranges its Hello names; returns the revision at which that is so."""


class Recovery:
    """Decides who may adopt our state, and when. One per controller."""

    def __init__(
        self,
        *,
        store: Store,
        registry: Registry,
        snapshot: Snapshot,
        clock: Clock,
        settings: RecoverySettings,
        register: Register,
    ) -> None:
        self._store = store
        self._registry = registry
        self._snapshot = snapshot
        self._clock = clock
        self._settings = settings
        self._register = register
        self._importing = asyncio.Lock()
        self._waiting: dict[str, sync.Hello] = {}
        self._another = asyncio.Event()
        self._collection: asyncio.Task[None] | None = None  # of its own: streams break and come again meanwhile
        self._taken_in: set[str] = set()
        self._recovered = 0  # the revision that holds all who were taken in together

    def is_foreign(self, hello: sync.Hello) -> bool:
        """Whether the agent has applied what our store does not know."""
        if not hello.store_id:
            return False
        return hello.store_id != self._store.store_id or hello.revision > self._snapshot.revision

    async def settle(self, node: str, hello: sync.Hello, refuse_for_now: Callable[[], Awaitable[None]]) -> int:
        """Returns the revision that must be reached before the agent is answered.

        Raises:
            Conflict: what the agent holds contradicts the store.
        """
        foreign = self.is_foreign(hello)
        empty = not self._snapshot.nodes
        collecting = self._collection is not None and not self._collection.done()
        if collecting or (foreign and empty):
            if foreign:
                await refuse_for_now()
            self._waiting[node] = hello
            self._another.set()
            if self._collection is None or not collecting:
                log.warning("store_is_new", store_id=self._store.store_id, agents_know=hello.store_id)
                self._collection = asyncio.create_task(self._collect(), name="recovery")
            await asyncio.shield(self._collection)
        elif foreign:
            await refuse_for_now()
        if not foreign or node in self._taken_in:
            return max(await self._register(node, hello), self._recovered)
        async with self._importing:
            await self._store.raise_revision(hello.revision + 1)
            revision = await self._register(node, hello)
            return max(revision, await self._import(node, hello.inventory))

    async def close(self) -> None:
        """Stops waiting."""
        if self._collection is not None:
            self._collection.cancel()
            await asyncio.gather(self._collection, return_exceptions=True)

    async def _collect(self) -> None:
        """Waits until those who know the old store have been heard; then all of them are taken in before anyone goes on."""
        await self._gather()
        async with self._importing:
            await self._store.raise_revision(max(hello.revision for hello in self._waiting.values()) + 1)
            for name, each in sorted(self._waiting.items()):
                if each.store_id:
                    await self._take_in(name, each)
        self._recovered = await self._store.revision()

    async def _gather(self) -> None:
        deadline = self._clock.monotonic() + self._settings.deadline_s
        expected = {node.name for node in self._snapshot.spec.nodes}
        while (now := self._clock.monotonic()) < deadline:
            limit = self._settings.quiet_s if expected <= self._waiting.keys() else deadline - now
            self._another.clear()
            if not await event_within(self._clock, limit, self._another):
                return

    async def _take_in(self, node: str, hello: sync.Hello) -> None:
        """One agent's contradiction must not hold up the others: its own session will be told."""
        try:
            await self._register(node, hello)
            await self._import(node, hello.inventory)
            self._taken_in.add(node)
        except Conflict as error:
            log.warning("node_contradicts", node=node, reason=error.message)

    async def _import(self, node: str, inventory: state.NodeReport) -> int:
        revision = await self._store.revision()
        pods = [report for report in inventory.pods if report.manifest and report.uid not in self._snapshot.pods]
        for namespace in sorted({report.namespace for report in pods} - self._snapshot.namespaces.keys()):
            await self._ensure_namespace(namespace)
        results = await asyncio.gather(*(self._import_pod(node, report) for report in pods))
        failpoint("recovery.imported")
        log.warning("node_taken_in", node=node, pods=sum(result > 0 for result in results))
        return max([revision, *results])

    async def _ensure_namespace(self, name: str) -> None:
        try:
            await self._registry.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        except AlreadyExists:
            return

    async def _import_pod(self, node: str, report: state.PodReport) -> int:
        """Stores a pod as its agent has it; 0 when the store has it, or has another of its name (which the agent will be told)."""
        doc = msgspec.json.decode(report.manifest, type=dict)
        metadata, spec = doc["metadata"], doc["spec"]
        ours = (metadata["uid"], metadata["namespace"], metadata["name"], spec.get("nodeName"))
        if ours != (report.uid, report.namespace, report.name, node):
            raise Conflict(f"node {node} reports pod {report.namespace}/{report.name} with another pod's manifest")
        owner = Allocation(
            owner=report.uid, generation=report.generation, node=node, namespace=report.namespace, name=report.name
        )
        operations = Operations()
        for address in report.addresses:
            operations += claim(ADDRESSES, address, owner)
        key = object_key("pods", report.namespace, report.name)
        doc["status"] = {"phase": "Pending"}
        try:
            return await self._store.transact(
                (Absent(key), *operations.given), (Put(key, msgspec.json.encode(doc)), *operations.writes)
            )
        except Conflict as error:
            log.warning("pod_not_taken_in", node=node, pod=f"{report.namespace}/{report.name}", reason=error.message)
            return 0
