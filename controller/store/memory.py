"""The store in memory: the SQLite store's twin for tests and the simulator.

In: an image, which stands for the disk and outlives the store, so that a simulated restart is another store over the same image.
Out: `base.Store`. It commits at once and in order, and has the same failpoints as the durable one.
"""

from __future__ import annotations

from collections.abc import Sequence

from controller.store.base import Precondition, Write
from controller.store.ledger import HISTORY, Image, Ledger
from controller.store.reads import LedgerReads
from podwire.errors import Unavailable
from podwire.seams import Rng, failpoint


class MemoryStore(LedgerReads):
    """See the module's docstring; `image` is made anew where none is given."""

    def __init__(self, rng: Rng, *, image: Image | None = None, history: int = HISTORY) -> None:
        self.image = image or Image(store_id=rng.uid(), epoch=0, revision=0, entries={})
        self.image.epoch += 1
        self.store_id = self.image.store_id
        self.epoch = self.image.epoch
        super().__init__(Ledger(self.image, history=history))

    async def transact(self, preconditions: Sequence[Precondition], writes: Sequence[Write]) -> int:
        return self._commit(preconditions, writes)

    async def raise_revision(self, at_least: int) -> None:
        self._commit((), (), at_least=at_least)

    def _commit(self, preconditions: Sequence[Precondition], writes: Sequence[Write], *, at_least: int = 0) -> int:
        if self._closed:
            raise Unavailable("the store is closed")
        staged = self._ledger.stage(preconditions, writes, at_least=at_least)
        try:
            failpoint("store.before_commit")
        except BaseException:
            self._ledger.abandon()
            raise
        self._ledger.publish()
        failpoint("store.committed")
        self._announce()
        return staged.batch.revision

    async def close(self) -> None:
        self._closed = True
        self._announce()
