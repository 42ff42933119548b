"""Watching objects: a store's changes of keys become Kubernetes' watch events. Pure.

In: batches of the store. Out: ADDED, MODIFIED, DELETED as a client with these selectors has to see them: an object that no longer
matches is DELETED for it, one that begins to match is ADDED. A bookmark says that everything up to its revision has been told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from controller.objects.keys import object_prefix, parse_object_key
from controller.objects.resources import Resource
from controller.objects.selectors import EVERYTHING, Selector
from controller.objects.semantics import decode_value
from controller.store.base import Batch, Change

EventType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One event; a deleted object is told as it was last, with the revision of its deletion. A bookmark's `doc` is empty."""

    type: EventType
    doc: dict[str, Any]
    revision: int


@dataclass(frozen=True, slots=True)
class Filter:
    """What a watcher or a list asks for."""

    resource: Resource | None = None
    namespace: str = ""
    selector: Selector = EVERYTHING

    @property
    def prefix(self) -> str:
        """Where in the store that stands."""
        if self.resource is None:
            return object_prefix()
        return object_prefix(self.resource.name, self.namespace if self.resource.namespaced else "")

    def takes_key(self, key: str) -> bool:
        """Whether a key below the prefix can be meant."""
        return self.resource is not None or not self.namespace or parse_object_key(key)[1] == self.namespace


def events_of(batch: Batch, wanted: Filter) -> Iterator[WatchEvent]:
    """The events that a batch means for a watcher, in order."""
    for change in batch.changes:
        if wanted.takes_key(change.key) and (event := _event_of(change, wanted.selector)):
            yield event
    if not batch.changes:
        yield WatchEvent("BOOKMARK", {}, batch.revision)


def _event_of(change: Change, selector: Selector) -> WatchEvent | None:
    now = None if change.value is None else decode_value(change.value, change.revision)
    if now is not None and selector.matches(now):
        if change.previous is None:
            return WatchEvent("ADDED", now, change.revision)
        matched = not selector or selector.matches(decode_value(change.previous, change.revision))
        return WatchEvent("MODIFIED" if matched else "ADDED", now, change.revision)
    if change.previous is None:
        return None
    before = decode_value(change.previous, change.revision)
    return WatchEvent("DELETED", before, change.revision) if selector.matches(before) else None
