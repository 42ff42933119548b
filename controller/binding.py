"""Binding: gives pods a node and addresses.

In: the snapshot, and a wake-up when pods came, nodes changed or addresses were freed. Out: pods with `spec.nodeName`, and their
allocations, in one transaction each; all transactions of a pass run at once, so that the store commits them together. A pod that
cannot be placed says why in its status and as an event, and is looked at again when something changed that could help it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

from controller.events import Events
from controller.ipam import ADDRESSES, AddressPool, Allocation, Operations, claim
from controller.objects.keys import object_key
from controller.objects.registry import Registry
from controller.placement import Candidate, Unplaced, place
from controller.snapshot import Pod, Snapshot, Touched
from controller.status import rfc3339, unscheduled
from controller.store.base import Precondition, Unchanged, Write
from podwire.errors import Conflict, Exhausted, NotFound
from podwire.seams import Clock, failpoint
from podwire.waiting import event_within

Doc = dict[str, Any]
IDLE_S = 3600.0  # nothing rests: only a change can help


@dataclass(frozen=True, slots=True)
class Binding:
    """A decision: the node, and an address per family with the pool each came from."""

    pod: Pod
    node: str
    taken: tuple[tuple[AddressPool, int], ...]

    @property
    def addresses(self) -> tuple[str, ...]:
        """In text."""
        return tuple(pool.value(number) for pool, number in self.taken)

    @property
    def operations(self) -> Operations:
        """What makes them this pod's."""
        metadata = self.pod.view.metadata
        owner = Allocation(
            owner=self.pod.uid,
            generation=metadata.generation,
            node=self.node,
            namespace=metadata.namespace,
            name=metadata.name,
        )
        return sum((claim(ADDRESSES, address, owner) for address in self.addresses), Operations())

    def give_back(self) -> None:
        """The store never had it."""
        for pool, number in self.taken:
            pool.give_back(number)


class Binder:
    """See the module's docstring."""

    def __init__(self, snapshot: Snapshot, registry: Registry, clock: Clock, events: Events) -> None:
        self._snapshot = snapshot
        self._registry = registry
        self._clock = clock
        self._events = events
        self._fresh: set[str] = set()
        self._waiting: set[str] = set()  # could not be placed so far
        self._due = asyncio.Event()

    def touched(self, touched: Touched) -> None:
        """The snapshot moved."""
        if touched.nodes or touched.freed:
            self._fresh |= self._waiting
        self._fresh |= touched.pods
        if self._fresh:
            self._due.set()

    async def run(self) -> None:
        """Binds until cancelled."""
        while True:
            if not await event_within(self._clock, self._next_look_s(), self._due):
                self._fresh |= self._waiting  # an address has rested enough
            self._due.clear()
            await self.bind_all()

    async def bind_all(self) -> None:
        """One pass over the pods that may need a node or an address."""
        fresh, self._fresh = self._fresh, set()
        pods = [pod for uid in fresh if (pod := self._snapshot.pods.get(uid)) is not None and self._needs(pod)]
        self._waiting -= fresh
        if not pods:
            return
        pods.sort(key=lambda pod: (pod.doc["metadata"].get("creationTimestamp", ""), pod.key))
        load = Counter({node: len(bound) for node, bound in self._snapshot.bound.items()})
        bindings: list[Binding] = []
        refusals: list[tuple[Pod, Unplaced]] = []
        for pod in pods:
            decision = self._decide(pod, load)
            if isinstance(decision, Binding):
                load[decision.node] += not pod.node
                bindings.append(decision)
            else:
                self._waiting.add(pod.uid)
                refusals.append((pod, decision))
        await asyncio.gather(*map(self._bind, bindings), *(self._refuse(pod, why) for pod, why in refusals))

    def _next_look_s(self) -> float:
        """How long until an address has rested enough for a pod that waits for one."""
        if not self._waiting:
            return IDLE_S
        now = self._clock.monotonic()
        nodes = (tuple(node.view.spec.pod_cidrs) for node in self._snapshot.nodes.values())
        rests = (pool.next_rested(now) for cidrs in nodes for pool in self._snapshot.pools.node(cidrs))
        return min((rest + 0.01 for rest in rests if rest), default=IDLE_S)

    def _needs(self, pod: Pod) -> bool:
        return not pod.view.terminating and not self._snapshot.addresses(pod.uid)

    def _decide(self, pod: Pod, load: Counter[str]) -> Binding | Unplaced:
        now = self._clock.monotonic()
        name: str | Unplaced = pod.node or place(pod.view.spec, self._candidates(load, now))
        if isinstance(name, Unplaced):
            return name
        node = self._snapshot.nodes.get(name)
        if node is None:
            return Unplaced(f"node {name} does not exist")
        if not node.view.spec.pod_cidrs:
            return Unplaced(f"node {name} has no pod CIDR yet")
        taken: list[tuple[AddressPool, int]] = []
        try:
            for pool in self._snapshot.pools.node(tuple(node.view.spec.pod_cidrs)):
                taken.append((pool, pool.take(now)))  # noqa: PERF401 - what was taken before a failure is given back
        except Exhausted:
            for pool, number in taken:
                pool.give_back(number)
            cidrs = ", ".join(node.view.spec.pod_cidrs)
            return Unplaced(f"node {name} has no free pod address in {cidrs}", exhausted=True)
        return Binding(pod, name, tuple(taken))

    def _candidates(self, load: Counter[str], now: float) -> list[Candidate]:
        candidates = []
        for name, node in self._snapshot.nodes.items():
            if not node.view.spec.pod_cidrs:
                continue
            pools = self._snapshot.pools.node(tuple(node.view.spec.pod_cidrs))
            room = all(pool.has_room(now) for pool in pools)
            candidates.append(
                Candidate(
                    name=name,
                    labels=node.view.labels,
                    ready=node.view.ready,
                    schedulable=not node.view.spec.unschedulable,
                    pods=load[name],
                    room=room,
                )
            )
        return candidates

    async def _bind(self, binding: Binding) -> None:
        failpoint("binding.before_commit")
        try:
            bound = await self._commit(binding)
        except (Conflict, NotFound):  # the pod or the address changed hands: look again
            bound = False
            self._fresh.add(binding.pod.uid)
            self._due.set()
        except Exhausted:  # the disk is full: deletions will free some
            bound = False
            self._waiting.add(binding.pod.uid)
        if not bound:
            binding.give_back()
            return
        message = (
            f"Successfully assigned {'/'.join(binding.pod.key)} to {binding.node} with {', '.join(binding.addresses)}"
        )
        self._events.record(binding.pod.doc, "Normal", "Scheduled", message)

    async def _commit(self, binding: Binding) -> bool:
        pod, operations = binding.pod, binding.operations
        namespace, name = pod.key
        if pod.node:  # its node was named by the user: nothing of the pod changes
            unchanged = Unchanged(object_key("pods", namespace, name), pod.revision)
            await self._registry.store.transact((*operations.given, unchanged), operations.writes)
            return True

        def assign(doc: Doc) -> Doc | None:
            if (
                doc["metadata"]["uid"] != pod.uid
                or "deletionTimestamp" in doc["metadata"]
                or doc["spec"].get("nodeName")
            ):
                return None
            doc["spec"]["nodeName"] = binding.node
            return doc

        def claims(_: Doc) -> tuple[tuple[Write, ...], tuple[Precondition, ...]]:
            return operations.writes, operations.given

        after = await self._registry.mutate("pods", namespace, name, assign, also_fn=claims)
        return bool(after["metadata"]["uid"] == pod.uid and after["spec"].get("nodeName") == binding.node)

    async def _refuse(self, pod: Pod, why: Unplaced) -> None:
        conditions = pod.doc.get("status", {}).get("conditions", ())
        if any(each["type"] == "PodScheduled" and each.get("message") == why.message for each in conditions):
            return
        self._events.record(
            pod.doc, "Warning", "AddressesExhausted" if why.exhausted else "FailedScheduling", why.message
        )
        now = rfc3339(self._clock.wall())

        def say(doc: Doc) -> Doc | None:
            if doc["metadata"]["uid"] != pod.uid:
                return None
            doc["status"] = unscheduled(doc.get("status", {}), why.message, now)
            return doc

        try:
            await self._registry.mutate("pods", *pod.key, say, status=True)
        except (NotFound, Conflict, Exhausted):
            return
