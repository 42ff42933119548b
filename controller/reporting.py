"""What agents report about pods becomes their status; what they confirm gone is removed and its addresses freed.

In: reports of agents about pods of their own (others are ignored: a node speaks for its own things only). Out: status writes, final
removals, releases. Reports are coalesced per pod, the newest counts; writes of a pass run at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from controller.events import Events
from controller.ipam import ADDRESSES, Operations, release
from controller.objects.registry import Registry
from controller.snapshot import Pod, Snapshot
from controller.status import pod_status, rfc3339, silenced
from podwire.api.v1 import state_pb2 as state
from podwire.errors import Conflict, Exhausted, NotFound
from podwire.seams import Clock, failpoint
from podwire.waiting import event_within

log = structlog.get_logger(__name__)

Doc = dict[str, Any]
IDLE_S = 3600.0
RETRY_S = 0.2  # after a removal that met another change
LEAVING_S = 0.5  # how long the status of a pod that is to go may wait: most are gone by then


class Reporting:
    """See the module's docstring."""

    def __init__(self, snapshot: Snapshot, registry: Registry, clock: Clock, events: Events) -> None:
        self._snapshot = snapshot
        self._registry = registry
        self._clock = clock
        self._events = events
        self._reports: dict[str, state.PodReport] = {}  # the newest of each pod
        self._due: dict[str, None] = {}
        self._leaving: dict[str, float] = {}  # pods that are to go, and since when their status waits
        self._removed: dict[str, str] = {}  # UID → the node that confirmed it
        self._silent: frozenset[str] = frozenset()
        self._wakeup = asyncio.Event()

    def reported(self, node: str, report: state.NodeReport) -> None:
        """An agent reported."""
        for pod in report.pods:
            known = self._snapshot.pods.get(pod.uid)
            if known is None or known.node != node:
                continue
            for event in pod.events:
                self._events.record(
                    known.doc, event.type or "Normal", event.reason, event.message, component="podwire-agent", host=node
                )
            self._reports[pod.uid] = pod
            if known.view.terminating:
                self._leaving.setdefault(pod.uid, self._clock.monotonic())
            else:
                self._due[pod.uid] = None
        self._removed |= dict.fromkeys(report.removed_uids, node)
        self._record_repairs(node, report.repairs)
        if self._due or self._removed or self._leaving:
            self._wakeup.set()

    def _record_repairs(self, node: str, repairs: Iterable[state.Repair]) -> None:
        known = self._snapshot.nodes.get(node)
        if known is None:
            return
        for repair in repairs:
            self._events.record(
                known.doc,
                "Warning",
                "Repaired",
                f"{repair.object}: {repair.action}",
                component="podwire-agent",
                host=node,
            )

    def silent(self, nodes: frozenset[str]) -> None:
        """These nodes are silent now: their pods are not ready, whatever was last heard of them."""
        changed, self._silent = nodes ^ self._silent, nodes
        for node in changed:
            self._due |= dict.fromkeys(self._snapshot.bound.get(node, ()))
        if changed:
            self._wakeup.set()

    def forget(self, uids: Iterable[str]) -> None:
        """These pods are gone from the store."""
        for uid in uids:
            self._reports.pop(uid, None)
            self._leaving.pop(uid, None)

    async def run(self) -> None:
        """Writes until cancelled."""
        while True:
            pause = RETRY_S if self._removed or self._leaving else IDLE_S
            await event_within(self._clock, pause, self._wakeup)
            self._wakeup.clear()
            await self.write_all()

    async def write_all(self) -> None:
        """One pass over what was reported since the last."""
        due, self._due = self._due, {}
        removed, self._removed = self._removed, {}
        ripe = self._clock.monotonic() - LEAVING_S
        due |= dict.fromkeys(uid for uid, since in self._leaving.items() if since <= ripe)
        self._leaving = {uid: since for uid, since in self._leaving.items() if since > ripe and uid not in removed}
        now = rfc3339(self._clock.wall())
        pods = (self._snapshot.pods.get(uid) for uid in due if uid not in removed)
        writes = [
            self._write(pod, new, now)
            for pod in pods
            if pod is not None and (new := self._status(pod, pod.doc, now)) is not None
        ]
        await asyncio.gather(*writes, *(self._remove(node, uid) for uid, node in removed.items()))

    def _status(self, pod: Pod, doc: Mapping[str, Any], now: str) -> Doc | None:
        """The status a document should have; None when it has it."""
        old = doc.get("status", {})
        report = self._reports.get(pod.uid)
        new = dict(old)
        if report is not None:
            node = self._snapshot.nodes.get(pod.node)
            new = pod_status(pod.view, old, report, host_ips=node.view.underlay_addresses if node else (), now=now)
        if pod.node in self._silent:
            new = silenced(new, now)
        return None if new == old else new

    async def _write(self, pod: Pod, status: Doc, now: str) -> None:
        def change(doc: Doc) -> Doc | None:
            if doc["metadata"]["uid"] != pod.uid:
                return None
            fresh = self._status(pod, doc, now)
            if fresh is None:
                return None
            doc["status"] = fresh
            return doc

        try:
            await self._registry.mutate("pods", *pod.key, change, status=True)
            failpoint("status.written")
        except NotFound:
            return
        except (Conflict, Exhausted) as error:
            log.warning("status_not_written", pod="/".join(pod.key), phase=status.get("phase"), reason=error.message)

    async def _remove(self, node: str, uid: str) -> None:
        """The agent holds nothing of this pod any more."""
        pod = self._snapshot.pods.get(uid)
        if pod is not None and (pod.node != node or not pod.view.terminating):
            return
        operations = self.releases(uid, node)
        if pod is None and not operations.writes:
            return
        try:
            if pod is not None:
                await self._registry.remove("pods", *pod.key, uid, also=operations.writes, given=operations.given)
            else:
                await self._registry.store.transact(operations.given, operations.writes)
            failpoint("pod.removed")
        except (
            NotFound,
            Conflict,
            Exhausted,
        ):  # somebody was faster, or the disk is full: the next pass sees what is left
            self._removed.setdefault(uid, node)

    def releases(self, uid: str, node: str) -> Operations:
        """What gives back a pod's addresses on a node, as the snapshot has them."""
        held = [
            release(ADDRESSES, value, self._snapshot.held[pool, value])
            for pool, value in self._snapshot.owned.get(uid, ())
            if pool == ADDRESSES and self._snapshot.held[pool, value].allocation.node == node
        ]
        return sum(held, Operations())

    def inventory(self, node: str, report: state.NodeReport) -> None:
        """All that a node holds, at the start of a stream: what is not in it and was to go is gone."""
        if not report.complete:
            return
        held = {pod.uid for pod in report.pods}
        owners = {
            each.allocation.owner
            for (pool, _), each in self._snapshot.held.items()
            if pool == ADDRESSES and each.allocation.node == node
        }
        for uid in (owners | set(self._snapshot.bound.get(node, ()))) - held:
            pod = self._snapshot.pods.get(uid)
            if pod is None or pod.view.terminating:
                self._removed[uid] = node
        if self._removed:
            self._wakeup.set()
