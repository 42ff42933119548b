"""The store in memory."""

from __future__ import annotations

import pytest

from controller.store.base import Store
from controller.store.ledger import Image
from controller.store.memory import MemoryStore
from podwire.seams import SeededRng
from tests.unit.store_contract import Opener, StoreContract


class TestMemoryStore(StoreContract):
    """Passes the contract."""

    @pytest.fixture
    def opener(self) -> Opener:
        image = Image(store_id="there", epoch=0, revision=0, entries={})

        async def opened(history: int = 10_000) -> Store:
            return MemoryStore(SeededRng(1), image=image, history=history)

        return opened
