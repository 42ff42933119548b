"""Keeps the snapshot in step with the store.

In: the store's listing and then its changes. Out: a `Snapshot`, and a call of every listener with what was touched. A watch that
expired (or fell too far behind) is answered by listing anew: listeners are level-triggered and do not notice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from controller.snapshot import Snapshot, Touched
from controller.store.base import Store
from podwire.errors import Expired
from podwire.seams import Clock

Listener = Callable[[Touched], None]


class Follower:
    """See the module's docstring."""

    def __init__(self, store: Store, snapshot: Snapshot, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._moved = asyncio.Event()
        self._listeners: list[Listener] = []
        self.snapshot = snapshot

    def listen(self, listener: Listener) -> None:
        """Calls it after every change, in the event loop; it must not block."""
        self._listeners.append(listener)

    async def load(self) -> None:
        """Lists the store."""
        entries, revision = await self._store.list("/")
        self._tell(self.snapshot.load(entries, revision, self._clock.monotonic()))

    async def run(self) -> None:
        """Follows until cancelled; `load` comes first."""
        while True:
            try:
                async for batch in self._store.watch("/", self.snapshot.revision):
                    touched = self.snapshot.advance(batch.changes, batch.revision, self._clock.monotonic())
                    self._tell(touched)
            except Expired:
                await self.load()

    async def reached(self, revision: int) -> None:
        """Returns once the snapshot holds everything up to a revision."""
        while self.snapshot.revision < revision:
            moved = self._moved
            await moved.wait()

    def _tell(self, touched: Touched) -> None:
        for listener in self._listeners:
            listener(touched)
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
