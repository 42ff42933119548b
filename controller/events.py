"""Events: what happened to an object, for `describe`.

In: what happened, from reconcilers and agents. Out: Event objects in the store, written a batch at a time and never in anyone's way.
The same thing happening again raises a count; the oldest are dropped beyond a bound.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import structlog

from controller.objects.keys import object_key, object_prefix
from controller.status import rfc3339
from controller.store.base import Put, Remove, Store, Write
from podwire.errors import Exhausted
from podwire.seams import Clock, Rng

log = structlog.get_logger(__name__)

COMPONENT = "podwire-controller"
LONGEST_MESSAGE = 1024
CLUSTER_EVENTS_NAMESPACE = "default"  # where events on nodes live, as in Kubernetes


class Events:
    """The recorder; `flush` writes."""

    def __init__(self, store: Store, clock: Clock, rng: Rng, *, keep: int, accepts: Callable[[str], bool]) -> None:
        self._store = store
        self._clock = clock
        self._rng = rng
        self._keep = keep
        self._accepts = accepts  # whether a namespace may take events now
        self._known: dict[str, dict[str, Any]] = {}  # key → event, least recently seen first
        self._dirty: set[str] = set()

    async def load(self) -> None:
        """Reads what was recorded before, so that counts go on."""
        entries, _ = await self._store.list(object_prefix("events"))
        for entry in sorted(entries, key=lambda entry: entry.revision):
            self._known[entry.key] = msgspec.json.decode(entry.value)

    def record(
        self,
        about: Mapping[str, Any],
        kind: str,
        reason: str,
        message: str,
        *,
        component: str = COMPONENT,
        host: str = "",
    ) -> None:
        """Notes that something happened to the object `about`; `kind` is Normal or Warning."""
        metadata = about["metadata"]
        namespace = metadata.get("namespace") or CLUSTER_EVENTS_NAMESPACE
        message = message[:LONGEST_MESSAGE]
        digest = hashlib.sha256("\0".join((metadata["uid"], kind, reason, message)).encode()).hexdigest()[:16]
        key = object_key("events", namespace, f"{metadata['name'][:230]}.{digest}")
        now = rfc3339(self._clock.wall())
        event = self._known.pop(key, None)
        if event is None:
            event = {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {
                    "name": key.rpartition("/")[2],
                    "namespace": namespace,
                    "uid": self._rng.uid(),
                    "creationTimestamp": now,
                },
                "involvedObject": {
                    "apiVersion": about["apiVersion"],
                    "kind": about["kind"],
                    "name": metadata["name"],
                    "namespace": metadata.get("namespace", ""),
                    "uid": metadata["uid"],
                },
                "type": kind,
                "reason": reason,
                "message": message,
                "source": {"component": component, "host": host} if host else {"component": component},
                "reportingComponent": component,
                "reportingInstance": host,
                "firstTimestamp": now,
                "count": 0,
            }
        self._known[key] = {**event, "lastTimestamp": now, "count": event["count"] + 1}
        self._dirty.add(key)

    @property
    def pending(self) -> bool:
        """Whether there is anything to write."""
        return bool(self._dirty)

    async def flush(self) -> None:
        """Writes what was recorded since the last time, in one transaction, and drops what is too old."""
        dirty, self._dirty = self._dirty, set()
        writes: list[Write] = []
        for key in dirty:
            event = self._known.get(key)
            if event is not None and self._accepts(event["metadata"]["namespace"]):
                writes.append(Put(key, msgspec.json.encode(event)))
        surplus = len(self._known) - self._keep
        for key in list(self._known)[: max(surplus, 0)]:
            del self._known[key]
            writes.append(Remove(key))
        if not writes:
            return
        try:
            await self._store.transact((), writes)
        except Exhausted as error:
            log.warning("events_lost", count=len(dirty), reason=error.message)
