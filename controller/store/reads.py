"""The reading half of a store, served from the ledger in memory: no read ever waits for a disk.

In: a ledger, and `_announce()` from the back end whenever it has published. Out: `get`, `list`, `watch`, `compact` of `base.Store`.
A watcher is a cursor into the ledger's bounded history, not a queue of its own: a slow one costs nothing, and learns that it was
too slow (`Expired`) when its place in the history is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from controller.store.base import Batch, Entry
from controller.store.ledger import Ledger
from podwire.errors import Unavailable

BOOKMARK_EVERY = 100  # revisions that a watcher may lag behind unknowingly


class LedgerReads:
    """Serves what the ledger has published."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._news = asyncio.Event()
        self._closed = False

    def _announce(self) -> None:
        """Wakes the watchers: something was published, or the store is closing."""
        self._news.set()
        self._news = asyncio.Event()

    async def revision(self) -> int:
        return self._ledger.revision

    async def get(self, key: str) -> Entry | None:
        return self._ledger.get(key)

    async def list(self, prefix: str) -> tuple[Sequence[Entry], int]:
        return self._ledger.list(prefix), self._ledger.revision

    async def compact(self, before: int) -> None:
        self._ledger.compact(before)

    async def watch(self, prefix: str, after: int) -> AsyncIterator[Batch]:
        """Yields changes, a bookmark when it has caught up for the first time, and one whenever it falls `BOOKMARK_EVERY` behind."""
        if self._closed:
            raise Unavailable("the store is closed")
        seen = told = after
        caught_up = False
        while not self._closed:
            news = self._news  # taken before reading: what is published while we yield sets it
            batches, seen = self._ledger.since(seen, prefix), self._ledger.revision
            for batch in batches:
                yield batch
                told = batch.revision
            if not caught_up or seen - told >= BOOKMARK_EVERY:
                caught_up = True
                told = seen
                yield Batch(seen, ())
            await news.wait()
