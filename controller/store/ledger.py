"""The ledger: what every store back end does alike, in memory and without waiting.

In: an image (what was durable at opening), then transactions. Out: staged transactions for a back end to make durable, and, once it
has, the newest state and its history for readers and watchers. Staging and publishing are two steps so that a back end may stage
many transactions, each judged against the ones before it, sync them to disk together and only then let anybody see them.
Nothing here knows files or tasks: `memory.py` publishes at once, `committer.py` after its back end has written.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass

from controller.store.base import Absent, Batch, Change, Entry, Precondition, Put, Write
from podwire.errors import Conflict, Exhausted, Expired

HISTORY = 10_000  # changes kept for watchers; between one and two times as many, as they are cut in bulk
_LAST = "\U0010ffff"  # sorts after every key


@dataclass(slots=True)
class Image:
    """What a store is between two openings."""

    store_id: str
    epoch: int
    revision: int
    entries: dict[str, Entry]


@dataclass(frozen=True, slots=True)
class Staged:
    """One transaction that will hold once it is durable: per key what is stored, or None where it is removed."""

    batch: Batch
    entries: dict[str, Entry | None]


class Ledger:
    """Current entries, the history of changes, and transactions staged but not yet published."""

    def __init__(self, image: Image, *, history: int = HISTORY) -> None:
        self._image = image
        self._keys = sorted(image.entries)
        self._limit = history
        self._history: list[Batch] = []
        self._changes = 0  # how many stand in the history
        self._forgotten = image.revision  # the newest revision whose changes are no longer kept
        self._staged: list[Staged] = []
        self._ahead: dict[str, Entry | None] = {}  # what the staged transactions change, by key

    @property
    def revision(self) -> int:
        """The newest published revision."""
        return self._image.revision

    def get(self, key: str) -> Entry | None:
        """One key as published."""
        return self._image.entries.get(key)

    def list(self, prefix: str) -> Sequence[Entry]:
        """All published entries under a prefix, sorted by key."""
        entries = self._image.entries
        low, high = bisect_left(self._keys, prefix), bisect_right(self._keys, prefix + _LAST)
        return [entries[key] for key in self._keys[low:high]]

    def stage(
        self,
        preconditions: Sequence[Precondition],
        writes: Sequence[Write],
        *,
        at_least: int = 0,
        new_keys: bool = True,
    ) -> Staged:
        """Judges one transaction after those already staged; `at_least` lifts its revision above what others have seen.

        Raises:
            Conflict: a precondition does not hold.
            Exhausted: it leaves more keys than it found while `new_keys` is off (the disk is full).
        """
        for precondition in preconditions:
            self._check(precondition)
        newest = self._staged[-1].batch.revision if self._staged else self.revision
        revision = max(newest + 1, at_least) if writes else max(newest, at_least)
        entries: dict[str, Entry | None] = {}
        changes = []
        made: list[str] = []
        removed = 0
        for write in writes:
            if write.key in entries:
                raise ValueError(f"one transaction writes {write.key} twice")
            before = self._newest(write.key)
            if isinstance(write, Put):
                if before is None:
                    made.append(write.key)
                created = revision if before is None else before.created
                entries[write.key] = Entry(write.key, write.value, revision, created)
                changes.append(Change(revision, write.key, write.value, None if before is None else before.value))
            elif before is not None:
                removed += 1
                entries[write.key] = None
                changes.append(Change(revision, write.key, None, before.value))
        if len(made) > removed and not new_keys:
            raise Exhausted(f"the disk is full: {made[0]} was not stored", hint="free some space")
        if writes and not changes:  # removed what was not there: nothing happened
            revision = max(newest, at_least)
        staged = Staged(Batch(revision, tuple(changes)), entries)
        self._staged.append(staged)
        self._ahead.update(entries)
        return staged

    def _newest(self, key: str) -> Entry | None:
        return self._ahead[key] if key in self._ahead else self._image.entries.get(key)

    def _check(self, precondition: Precondition) -> None:
        entry = self._newest(precondition.key)
        if isinstance(precondition, Absent):
            if entry is not None:
                raise Conflict(f"{precondition.key} exists already")
        elif entry is None:
            raise Conflict(f"{precondition.key} is gone")
        elif entry.revision != precondition.revision:
            raise Conflict(f"{precondition.key} has changed: it is at revision {entry.revision}")

    def publish(self) -> None:
        """Everything staged is durable now: readers and watchers may see it."""
        for staged in self._staged:
            self._image.revision = staged.batch.revision
            for key, entry in staged.entries.items():
                self._place(key, entry)
            if staged.batch.changes:
                self._history.append(staged.batch)
                self._changes += len(staged.batch.changes)
        self.abandon()
        self._trim()

    def _place(self, key: str, entry: Entry | None) -> None:
        entries = self._image.entries
        if entry is None:
            del entries[key]
            del self._keys[bisect_left(self._keys, key)]
            return
        if key not in entries:
            insort(self._keys, key)
        entries[key] = entry

    def abandon(self) -> None:
        """Nothing staged became durable: forget it."""
        self._staged.clear()
        self._ahead.clear()

    def _trim(self) -> None:
        if self._changes <= 2 * self._limit:
            return
        surplus, cut = self._changes - self._limit, 0
        while surplus >= len(self._history[cut].changes):
            surplus -= len(self._history[cut].changes)
            cut += 1
        self._cut(cut)

    def _cut(self, count: int) -> None:
        if count:
            self._forgotten = self._history[count - 1].revision
            self._changes -= sum(len(batch.changes) for batch in self._history[:count])
            del self._history[:count]

    def since(self, after: int, prefix: str) -> Sequence[Batch]:
        """Changes under the prefix after a revision, in order.

        Raises:
            Expired: they are no longer kept, or the revision belongs to another history.
        """
        if after < self._forgotten:
            raise Expired(f"revision {after} is compacted away (the oldest kept is {self._forgotten}): list again")
        if after > self.revision:
            raise Expired(f"revision {after} is not of this history, which ends at {self.revision}: list again")
        start = bisect_right(self._history, after, key=lambda batch: batch.revision)
        found = []
        for batch in self._history[start:]:
            changes = tuple(change for change in batch.changes if change.key.startswith(prefix))
            if changes:
                found.append(Batch(batch.revision, changes))
        return found

    def compact(self, before: int) -> None:
        """Forgets changes older than a revision."""
        self._cut(bisect_left(self._history, before, key=lambda batch: batch.revision))
        self._forgotten = max(self._forgotten, min(before - 1, self.revision))
