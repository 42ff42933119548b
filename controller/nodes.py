"""Nodes: registered at their first word, given a pod CIDR, marked when silent, and swept up after when deleted.

In: Hellos of certified agents, what was heard of them, and deletions of Node objects. Out: Node objects with labels, addresses, pod
CIDRs (claimed in the same transaction) and the Ready condition; releases of what deleted nodes held.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import structlog

from controller.admission.node import HOSTNAME_LABEL, ZONE_LABEL
from controller.config import Settings
from controller.events import Events
from controller.ipam import ADDRESSES, CIDRS, Allocation, Operations, RangePool, claim, release
from controller.nodeloss import NodeLoss
from controller.objects.registry import Registry
from controller.sessions import Agent, Hub
from controller.snapshot import Snapshot
from controller.status import node_status, rfc3339
from controller.store.base import Precondition, Put, Write
from podwire.api.v1 import node_sync_pb2 as sync
from podwire.errors import AlreadyExists, Conflict, Exhausted, NotFound
from podwire.seams import Clock

log = structlog.get_logger(__name__)

Doc = dict[str, Any]
JOINED = "/joined/"


class Grant(msgspec.Struct, frozen=True):
    """What a join token said of its node."""

    zone: str = ""
    labels: dict[str, str] = {}


def joined(node: str, *, zone: str, labels: Mapping[str, str]) -> Put:
    """Remembers what a node's token said, until its Node is made."""
    return Put(f"{JOINED}{node}", msgspec.json.encode(Grant(zone, dict(labels))))


class Nodes:
    """See the module's docstring."""

    def __init__(
        self, snapshot: Snapshot, registry: Registry, hub: Hub, *, clock: Clock, events: Events, settings: Settings
    ) -> None:
        self._snapshot = snapshot
        self._registry = registry
        self._hub = hub
        self._clock = clock
        self._events = events
        self._settings = settings
        self._freed = asyncio.Event()
        self._silent: frozenset[str] = frozenset()
        self.loss = NodeLoss(settings.node_timeout_s, settings.node_toleration_s)

    def freed(self) -> None:
        """A range was given back: someone may wait for it."""
        self._freed.set()

    async def register(self, node: str, hello: sync.Hello) -> int:
        """The Node of an agent, with its pod CIDRs; returns the revision at which that is so. Waits while no range is free.

        Raises:
            Conflict: the agent brings ranges of another store that are not free here.
        """
        await self._ensure(node)
        brought = tuple(hello.pod_cidrs) if hello.store_id and hello.store_id != self._hub.store_id else ()
        doc = await self._give_ranges(node, brought)
        held = tuple(doc["spec"]["podCIDRs"])
        if brought and held != brought:
            raise Conflict(
                f"node {node} holds {', '.join(brought)} of an earlier store, and its Node has {', '.join(held)}",
                hint=f"podwire node delete {node}, then add it again",
            )
        doc = await self.write_status(node)
        return int(doc["metadata"]["resourceVersion"])

    async def _ensure(self, node: str) -> None:
        if node in self._snapshot.nodes:
            return
        grant = await self._grant(node)
        labels = {**grant.labels, HOSTNAME_LABEL: node, "kubernetes.io/os": "linux"}
        if grant.zone:
            labels[ZONE_LABEL] = grant.zone
        doc = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": labels}, "spec": {}}
        try:
            doc = await self._registry.create(doc)
            self._events.record(doc, "Normal", "Registered", f"Node {node} joined the cluster")
        except AlreadyExists:
            return

    async def _grant(self, node: str) -> Grant:
        """What its token said; a node that joined a store before this one is as the Cluster document has it."""
        entry = await self._registry.store.get(f"{JOINED}{node}")
        if entry:
            return msgspec.json.decode(entry.value, type=Grant)
        planned = next((each for each in self._snapshot.spec.nodes if each.name == node), None)
        return Grant(planned.zone, planned.labels) if planned else Grant()

    async def _give_ranges(self, node: str, brought: Sequence[str]) -> Doc:
        while True:
            doc = await self._registry.get("nodes", "", node)
            if doc.get("spec", {}).get("podCIDRs"):
                return doc
            taken: list[tuple[RangePool, int]] = []
            try:
                if not brought:
                    self._take_ranges(taken)
                wanted = list(brought) or [pool.value(number) for pool, number in taken]
                done = await self._claim_ranges(doc, wanted)
                if done["spec"]["podCIDRs"] == wanted:
                    return done
            except Exhausted as error:
                self._events.record(doc, "Warning", "CIDRNotAvailable", f"Node {node} has no pod CIDR: {error.message}")
                self._freed.clear()
                self._give_back(taken)
                await self._freed.wait()
                continue
            except Conflict:
                if brought:
                    raise
            self._give_back(taken)

    def _take_ranges(self, taken: list[tuple[RangePool, int]]) -> None:
        now = self._clock.monotonic()
        for pool in self._snapshot.pools.ranges:
            taken.append((pool, pool.take(now)))  # noqa: PERF401 - what was taken before a failure is given back

    def _give_back(self, taken: Sequence[tuple[RangePool, int]]) -> None:
        for pool, number in taken:
            pool.give_back(number)

    async def _claim_ranges(self, node: Doc, wanted: list[str]) -> Doc:
        for cidr in wanted:  # brought by an agent: it must be a range that we could have given
            network = ipaddress.ip_network(cidr)
            if not any(
                network.version == pool.cidr.version and network.subnet_of(pool.cidr)  # type: ignore[arg-type]
                for pool in self._snapshot.pools.ranges
            ):
                raise Conflict(f"node {node['metadata']['name']} holds {cidr}, which is not of this cluster's pod CIDR")
        owner = Allocation(owner=node["metadata"]["uid"], node=node["metadata"]["name"], name=node["metadata"]["name"])
        operations = sum((claim(CIDRS, cidr, owner) for cidr in wanted), Operations())

        def assign(doc: Doc) -> Doc | None:
            if doc["metadata"]["uid"] != owner.owner or doc.get("spec", {}).get("podCIDRs"):
                return None
            doc["spec"] = {**doc.get("spec", {}), "podCIDR": wanted[0], "podCIDRs": wanted}
            return doc

        def claims(_: Doc) -> tuple[tuple[Write, ...], tuple[Precondition, ...]]:
            return operations.writes, operations.given

        return await self._registry.mutate("nodes", "", owner.name, assign, also_fn=claims)

    async def write_status(self, node: str) -> Doc:
        """Writes how a node is reached and whether it is ready, when that changed."""
        agent = self._hub.agents.get(node) or Agent(node)
        now = rfc3339(self._clock.wall())

        def change(doc: Doc) -> Doc | None:
            old = doc.get("status", {})
            ready, reason, message = self._readiness(agent, old)
            new = node_status(
                old,
                ready=ready,
                reason=reason,
                message=message,
                addresses=agent.underlay_addresses,
                hostname=node,
                agent_version=agent.version,
                boot_id=agent.boot_id,
                agent_port=agent.agent_port,
                now=now,
            )
            if new == old:
                return None
            doc["status"] = new
            return doc

        return await self._registry.mutate("nodes", "", node, change, status=True)

    def _readiness(self, agent: Agent, old: Mapping[str, Any]) -> tuple[bool, str, str]:
        if agent.node in self._silent:
            return False, "NodeSilent", f"nothing was heard from the agent for {self._settings.node_timeout_s:.0f} s"
        if agent.synced:
            return True, "AgentReady", "the agent has applied the cluster's state"
        for condition in old.get("conditions", ()):
            if condition["type"] == "Ready" and condition["status"] == "True":  # reconnecting: it runs what it had
                return True, condition.get("reason", ""), condition.get("message", "")
        return False, "AgentNotSynced", "the agent has not yet applied the cluster's state"

    async def tick(self) -> frozenset[str]:
        """Judges silence; writes the status of nodes for which the answer changed. Returns who is silent."""
        nodes = set(self._snapshot.nodes)
        before = self._silent
        self._silent = self.loss.silent(nodes, self._clock.monotonic(), tick_s=self._settings.node_tick_s)
        for node in sorted(self._silent ^ before):
            if node not in self._snapshot.nodes:
                continue
            doc = await self.write_status(node)
            if node in self._silent:
                self._events.record(doc, "Warning", "NodeNotReady", f"Node {node} has not been heard of")
        return self._silent

    async def sweep(self) -> None:
        """Gives back what nodes held that are deleted, and deletes the pods that were on them."""
        uids = {node.view.metadata.uid for node in self._snapshot.nodes.values()}
        names = self._snapshot.nodes.keys()
        for (pool, value), held in list(self._snapshot.held.items()):
            if pool == CIDRS and held.allocation.owner not in uids:
                await self._release(release(CIDRS, value, held))
        lost = {
            held.allocation.owner: held.allocation.node
            for (pool, _), held in self._snapshot.held.items()
            if pool == ADDRESSES and held.allocation.node not in names
        }
        for uid in lost:
            await self._remove_lost(uid)
        for pod in list(self._snapshot.pods.values()):
            if pod.view.terminating and pod.node not in names and pod.uid not in lost:
                await self._remove_lost(pod.uid)

    async def _remove_lost(self, uid: str) -> None:
        held = self._snapshot.owned.get(uid, ())
        operations = sum((release(pool, value, self._snapshot.held[pool, value]) for pool, value in held), Operations())
        pod = self._snapshot.pods.get(uid)
        try:
            if pod is None:
                await self._release(operations)
            else:
                await self._registry.delete(
                    "pods", *pod.key, grace_s=0, uid=uid, also=operations.writes, given=operations.given
                )
        except (NotFound, Conflict):  # it changed just now, and the change brings us back here
            return

    async def _release(self, operations: Operations) -> None:
        try:
            await self._registry.store.transact(operations.given, operations.writes)
        except Conflict:
            return
