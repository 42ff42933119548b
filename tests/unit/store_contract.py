"""What every store must do. `test_store_memory.py` and `test_store_sqlite.py` run it; an etcd back end will too.

A subclass gives a fixture `opener`: called, it opens the store (again: what was durable is there); `history` bounds what it keeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from controller.store.base import Absent, Batch, Change, Put, Remove, Store, Unchanged
from podwire.errors import Conflict, Expired, Unavailable

Opener = Callable[..., Awaitable[Store]]
DEADLINE_S = 10


async def take(batches: AsyncIterator[Batch], count: int) -> list[Change]:
    """The next `count` changes; bookmarks are left out."""
    found: list[Change] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(found) < count:
            found.extend((await anext(batches)).changes)
    return found


def put(key: str, value: str = "") -> Put:
    return Put(key, value.encode())


class StoreContract:
    """The suite."""

    @pytest.fixture
    async def store(self, opener: Opener) -> AsyncIterator[Store]:
        opened = await opener()
        yield opened
        await opened.close()

    # Transactions

    async def test_an_empty_store_is_at_revision_zero(self, store: Store) -> None:
        assert await store.revision() == 0
        assert await store.get("/a") is None
        assert await store.list("/") == ([], 0)

    async def test_each_transaction_gets_the_next_revision(self, store: Store) -> None:
        assert [await store.transact((), [put("/a")]), await store.transact((), [put("/b")])] == [1, 2]
        assert await store.revision() == 2

    async def test_an_entry_remembers_its_creation_and_its_last_change(self, store: Store) -> None:
        await store.transact((), [put("/a", "one")])
        await store.transact((), [put("/a", "two")])
        entry = await store.get("/a")
        assert entry is not None
        assert (entry.value, entry.created, entry.revision) == (b"two", 1, 2)

    async def test_a_key_made_again_has_a_new_creation(self, store: Store) -> None:
        for write in (put("/a"), Remove("/a"), put("/a")):
            await store.transact((), [write])
        entry = await store.get("/a")
        assert entry is not None
        assert entry.created == 3

    async def test_all_writes_of_a_transaction_share_a_revision(self, store: Store) -> None:
        await store.transact((), [put("/a"), put("/b")])
        entries, revision = await store.list("/")
        assert [(entry.key, entry.revision) for entry in entries] == [("/a", 1), ("/b", 1)]
        assert revision == 1

    async def test_removing_what_is_not_there_changes_nothing(self, store: Store) -> None:
        await store.transact((), [put("/a")])
        assert await store.transact((), [Remove("/never")]) == 1
        assert await store.revision() == 1

    async def test_a_transaction_without_writes_checks_only(self, store: Store) -> None:
        assert await store.transact([Absent("/a")], ()) == 0
        with pytest.raises(Conflict):
            await store.transact([Unchanged("/a", 1)], ())

    async def test_one_transaction_writes_a_key_once(self, store: Store) -> None:
        with pytest.raises(ValueError, match="/a twice"):
            await store.transact((), [put("/a"), Remove("/a")])
        assert await store.revision() == 0

    async def test_a_precondition_that_fails_writes_nothing(self, store: Store) -> None:
        await store.transact((), [put("/a", "kept")])
        for precondition in (Absent("/a"), Unchanged("/a", 7), Unchanged("/b", 1)):
            with pytest.raises(Conflict, match=precondition.key):
                await store.transact([precondition], [put("/a", "lost"), put("/c")])
        entry = await store.get("/a")
        assert entry is not None
        assert entry.value == b"kept"
        assert await store.get("/c") is None
        assert await store.revision() == 1

    async def test_of_many_who_create_one_key_one_wins(self, store: Store) -> None:
        results = await asyncio.gather(
            *(store.transact([Absent("/address")], [put("/address", str(n))]) for n in range(20)),
            return_exceptions=True,
        )
        assert sum(isinstance(result, int) for result in results) == 1
        assert sum(isinstance(result, Conflict) for result in results) == 19

    async def test_concurrent_transactions_have_distinct_revisions_in_order(self, store: Store) -> None:
        revisions = await asyncio.gather(*(store.transact((), [put(f"/{n}")]) for n in range(200)))
        assert list(revisions) == list(range(1, 201))

    async def test_a_conflict_in_a_group_leaves_the_others_alone(self, store: Store) -> None:
        results = await asyncio.gather(
            store.transact((), [put("/a")]),
            store.transact([Absent("/a")], [put("/b")]),
            store.transact([Unchanged("/a", 1)], [put("/c")]),
            return_exceptions=True,
        )
        assert results[0] == 1
        assert isinstance(results[1], Conflict)
        assert results[2] == 2
        assert await store.get("/b") is None

    async def test_what_is_returned_can_be_read(self, store: Store) -> None:
        async def write_and_read(key: str) -> bool:
            revision = await store.transact((), [put(key)])
            entry = await store.get(key)
            return entry is not None and entry.revision == revision

        assert all(await asyncio.gather(*(write_and_read(f"/{n}") for n in range(50))))

    # Listing

    @pytest.mark.parametrize(
        ("prefix", "expected"),
        [
            ("/", ["/a/1", "/a/2", "/ab/1", "/b", "/ä/1"]),
            ("/a/", ["/a/1", "/a/2"]),
            ("/a", ["/a/1", "/a/2", "/ab/1"]),
            ("/b", ["/b"]),
            ("/c", []),
            ("/ä/", ["/ä/1"]),
        ],
    )
    async def test_a_list_is_what_has_the_prefix_sorted(
        self, store: Store, prefix: str, expected: Sequence[str]
    ) -> None:
        await store.transact((), [put(key) for key in ("/b", "/a/2", "/ä/1", "/ab/1", "/a/1")])
        entries, _ = await store.list(prefix)
        assert [entry.key for entry in entries] == expected

    # Watching

    async def test_a_watch_tells_earlier_and_later_changes_once_in_order(self, store: Store) -> None:
        await store.transact((), [put("/a", "1")])
        await store.transact((), [put("/b", "2")])
        batches = store.watch("/", 1)
        assert await take(batches, 1) == [Change(2, "/b", b"2", None)]
        await store.transact((), [put("/b", "3")])
        await store.transact((), [Remove("/b")])
        assert await take(batches, 2) == [Change(3, "/b", b"3", b"2"), Change(4, "/b", None, b"3")]

    async def test_one_transaction_is_one_batch(self, store: Store) -> None:
        batches = store.watch("/", 0)
        await store.transact((), [put("/a"), put("/b")])
        batch = await anext(batches)
        assert (batch.revision, [change.key for change in batch.changes]) == (1, ["/a", "/b"])

    async def test_a_watch_tells_its_prefix_only(self, store: Store) -> None:
        batches = store.watch("/a/", 0)
        await store.transact((), [put("/b/1"), put("/a/1")])
        await store.transact((), [put("/ab/1")])
        await store.transact((), [put("/a/2")])
        assert [change.key for change in await take(batches, 2)] == ["/a/1", "/a/2"]

    async def test_a_watch_that_has_caught_up_is_told_so(self, store: Store) -> None:
        await store.transact((), [put("/b")])
        assert await anext(store.watch("/a/", 0)) == Batch(1, ())

    async def test_changes_elsewhere_are_bookmarked_now_and_then(self, store: Store) -> None:
        batches = store.watch("/a/", 0)
        assert await anext(batches) == Batch(0, ())
        waiting = asyncio.ensure_future(anext(batches))
        for n in range(300):
            await store.transact((), [put(f"/b/{n}")])
        async with asyncio.timeout(DEADLINE_S):
            bookmark = await waiting
        assert bookmark.changes == ()
        assert 0 < bookmark.revision <= 300

    async def test_what_is_compacted_away_has_expired(self, store: Store) -> None:
        for n in range(5):
            await store.transact((), [put("/a", str(n))])
        await store.compact(4)
        with pytest.raises(Expired, match="list again"):
            await anext(store.watch("/", 2))
        assert [change.revision for change in await take(store.watch("/", 3), 2)] == [4, 5]
        assert await store.get("/a") is not None

    async def test_compacting_all_of_it_leaves_the_newest_revision_watchable(self, store: Store) -> None:
        await store.transact((), [put("/a")])
        await store.compact(100)
        batches = store.watch("/", 1)
        await store.transact((), [put("/b")])
        assert [change.key for change in await take(batches, 1)] == ["/b"]

    async def test_a_revision_that_is_still_to_come_belongs_to_another_history(self, store: Store) -> None:
        with pytest.raises(Expired):
            await anext(store.watch("/", 7))

    async def test_a_watcher_that_is_too_slow_has_expired(self, opener: Opener) -> None:
        store = await opener(history=10)
        batches = store.watch("/", 0)
        assert await anext(batches) == Batch(0, ())
        for n in range(50):
            await store.transact((), [put("/a", str(n))])
        with pytest.raises(Expired):
            await anext(batches)
        assert await take(store.watch("/", 45), 5)
        await store.close()

    # Openings

    async def test_entries_survive_and_the_epoch_rises(self, opener: Opener) -> None:
        store = await opener()
        await store.transact((), [put("/a", "1"), put("/b", "2")])
        await store.transact((), [Remove("/b"), put("/c", "3")])
        before = (await store.list("/"), store.store_id, store.epoch)
        await store.close()
        store = await opener()
        assert (await store.list("/"), store.store_id, store.epoch - 1) == before
        await store.close()

    async def test_history_before_an_opening_has_expired(self, opener: Opener) -> None:
        store = await opener()
        await store.transact((), [put("/a")])
        await store.close()
        store = await opener()
        with pytest.raises(Expired):
            await anext(store.watch("/", 0))
        assert await anext(store.watch("/", 1)) == Batch(1, ())
        await store.close()

    async def test_a_raised_revision_lasts_and_never_falls(self, opener: Opener) -> None:
        store = await opener()
        await store.raise_revision(1000)
        await store.raise_revision(10)
        assert await store.revision() == 1000
        await store.close()
        store = await opener()
        assert await store.revision() == 1000
        assert await store.transact((), [put("/a")]) == 1001
        await store.close()

    async def test_closing_ends_watches_and_refuses_transactions(self, opener: Opener) -> None:
        store = await opener()
        batches = store.watch("/", 0)
        await anext(batches)
        waiting = asyncio.ensure_future(anext(batches))
        await store.transact((), ())  # lets the watcher wait
        await store.close()
        with pytest.raises(StopAsyncIteration):
            await waiting
        with pytest.raises(Unavailable):
            await store.transact((), [put("/a")])
        with pytest.raises(Unavailable):
            await anext(store.watch("/", 0))
        await store.close()
