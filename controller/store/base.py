"""The store: versioned documents under string keys, with one monotonic revision, transactions and watches.

In: preconditions and writes. Out: revisions, snapshots at one revision, and ordered changes. Nothing here knows Kubernetes: object
semantics live in `controller.objects`, on top. `sqlite.py` is the embedded default, `memory.py` its twin for tests and the
simulator; both pass `tests/unit/store_contract.py`. An etcd back end fits the same interface, so every call that may block is async.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """One key as stored: `revision` is that of its last change, `created` that of its creation."""

    key: str
    value: bytes
    revision: int
    created: int


@dataclass(frozen=True, slots=True)
class Absent:
    """Precondition: nothing is stored under the key. What makes an allocation exclusive."""

    key: str


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Precondition: the key's last change is exactly this revision."""

    key: str
    revision: int


Precondition = Absent | Unchanged


@dataclass(frozen=True, slots=True)
class Put:
    """Write: stores the value."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Remove:
    """Write: forgets the key; no error where there is none."""

    key: str


Write = Put | Remove


@dataclass(frozen=True, slots=True)
class Change:
    """One key's change at a revision. `value` is None when removed; `previous` is None when created. Several changes share a
    revision when they were written in one transaction.
    """

    revision: int
    key: str
    value: bytes | None
    previous: bytes | None


@dataclass(frozen=True, slots=True)
class Batch:
    """What a watch yields: all changes of one revision under the prefix, or none (a bookmark: you have seen all up to here)."""

    revision: int
    changes: tuple[Change, ...]


class Store(Protocol):
    """See the module's docstring. Values survive a crash once `transact` has returned."""

    store_id: str
    """A UUID made with the store: another one means another history."""
    epoch: int
    """Raised durably at every opening."""

    async def revision(self) -> int:
        """The newest revision; 0 for an empty store."""

    async def get(self, key: str) -> Entry | None:
        """One key as it is now."""

    async def list(self, prefix: str) -> tuple[Sequence[Entry], int]:
        """All keys under a prefix, sorted, and the revision at which that was so."""

    async def transact(self, preconditions: Sequence[Precondition], writes: Sequence[Write]) -> int:
        """All writes at one new revision, which is returned, or none.

        Raises:
            Conflict: a precondition did not hold; the message names the key.
            Exhausted: the disk is full; nothing was written. Removals still succeed (a reserve is kept for them).
        """

    def watch(self, prefix: str, after: int) -> AsyncIterator[Batch]:
        """Changes after a revision, in order, each once, then bookmarks now and then.

        Raises (from iteration):
            Expired: `after` is compacted away, or the watcher was too slow and its bounded buffer overflowed: list again.
        """

    async def compact(self, before: int) -> None:
        """Forgets changes older than a revision; current values stay."""

    async def raise_revision(self, at_least: int) -> None:
        """Goes on above a revision that agents have already seen (a wiped store); never lowers."""

    async def close(self) -> None:
        """Ends watches and releases files."""
