"""Group commit over a disk that fails on demand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from controller.store.base import Absent, Put, Remove, Write
from controller.store.committer import DiskFull, DurableStore, exit_process
from controller.store.ledger import Image, Staged
from podwire.errors import Conflict, Exhausted, Unavailable
from tests.unit.store_contract import put


class Disk:
    """A backing with so much space: a key takes 1, any writing needs 1 to be free, the reserve holds 2."""

    def __init__(self) -> None:
        self.free = 100
        self.keys: set[str] = set()
        self.reserve = 0
        self.error: Exception | None = None
        self.groups: list[list[str]] = []

    def load(self) -> Image:
        return Image("disk", 1, 0, {})

    def write(self, staged: Sequence[Staged]) -> None:
        if self.error is not None:
            raise self.error
        after = set(self.keys)
        for one in staged:
            for key, entry in one.entries.items():
                (after.discard if entry is None else after.add)(key)
        if max(1, len(after) - len(self.keys)) > self.free:
            raise DiskFull
        self.free -= len(after) - len(self.keys)
        self.keys = after
        self.groups.append([key for one in staged for key in one.entries])

    def take_reserve(self) -> bool:
        if not self.reserve and self.free >= 2:
            self.reserve, self.free = 2, self.free - 2
        return self.reserve > 0

    def give_up_reserve(self) -> None:
        self.reserve, self.free = 0, self.free + self.reserve

    def close(self) -> None:
        self.error = ValueError("closed")


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def fatal() -> list[BaseException]:
    return []


@pytest.fixture
async def store(disk: Disk, fatal: list[BaseException]) -> AsyncIterator[DurableStore]:
    opened = await DurableStore.open(disk, on_fatal=fatal.append)
    yield opened
    await opened.close()


async def test_a_failed_sync_is_fatal_and_nothing_of_it_is_seen(
    store: DurableStore, disk: Disk, fatal: list[BaseException]
) -> None:
    """Nobody knows what is stored then: trying again would acknowledge what may be lost."""
    await store.transact((), [put("/a")])
    disk.error = OSError(5, "Input/output error")
    results = await asyncio.gather(*(store.transact((), [put(f"/{n}")]) for n in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [Unavailable] * 3
    assert fatal == [disk.error]
    disk.error = None
    with pytest.raises(Unavailable, match="Input/output error"):
        await store.transact((), [put("/b")])
    assert [entry.key for entry in (await store.list("/"))[0]] == ["/a"]


async def test_on_a_full_disk_new_keys_are_refused_and_everything_else_goes_on(store: DurableStore, disk: Disk) -> None:
    await store.transact((), [put("/a"), put("/b")])
    disk.free = 0

    async def attempt(write: Write) -> int | BaseException:
        (result,) = await asyncio.gather(store.transact((), [write]), return_exceptions=True)
        return result

    writes: list[Write] = [put("/new"), put("/a", "again"), Remove("/b"), put("/new")]
    together = await asyncio.gather(*(attempt(write) for write in writes))
    assert [type(result) for result in together] == [Exhausted, int, int, Exhausted]
    assert store.is_disk_full
    assert disk.keys == {"/a"}
    assert isinstance(await attempt(put("/new")), int)  # two removals' worth is free: the reserve is back
    assert not store.is_disk_full


async def test_a_disk_without_any_space_refuses_everything_and_recovers(store: DurableStore, disk: Disk) -> None:
    await store.transact((), [put("/a")])
    disk.free, disk.reserve = -2, 2
    with pytest.raises(Exhausted):
        await store.transact((), [Remove("/a")])
    disk.free = 50
    await store.transact((), [Remove("/a"), put("/b")])
    assert disk.keys == {"/b"}


async def test_a_conflict_is_told_after_what_caused_it_can_be_read(store: DurableStore) -> None:
    """So that whoever reads again sees why."""

    async def second() -> bytes:
        with pytest.raises(Conflict):
            await store.transact([Absent("/a")], [put("/a", "second")])
        entry = await store.get("/a")
        assert entry is not None
        return entry.value

    _, value = await asyncio.gather(store.transact([Absent("/a")], [put("/a", "first")]), second())
    assert value == b"first"


async def test_nothing_is_written_for_a_group_that_changes_nothing(store: DurableStore, disk: Disk) -> None:
    await asyncio.gather(store.transact((), ()), store.transact((), [Remove("/never")]))
    assert disk.groups == []


async def test_a_caller_that_is_cancelled_before_its_turn_writes_nothing(store: DurableStore, disk: Disk) -> None:
    first = asyncio.ensure_future(store.transact((), [put("/first")]))
    second = asyncio.ensure_future(store.transact((), [put("/second")]))
    asyncio.get_running_loop().call_soon(second.cancel)  # after both have queued, before the committer wakes
    assert await first == 1
    assert await store.transact((), [put("/third")]) == 2
    assert disk.keys == {"/first", "/third"}


async def test_closing_writes_what_was_waiting(disk: Disk) -> None:
    store = await DurableStore.open(disk, on_fatal=lambda _: None)
    waiting = [asyncio.ensure_future(store.transact((), [Put(f"/{n}", b"")])) for n in range(10)]
    await asyncio.wait([asyncio.ensure_future(store.revision())])
    await store.close()
    assert [task.result() for task in waiting] == list(range(1, 11))
    assert len(disk.keys) == 10


def test_a_fatal_error_ends_the_process_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No clean-up that could write: the next process reads what is really there."""

    def ended(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr("os._exit", ended)
    with pytest.raises(SystemExit, match="74"):
        exit_process(OSError(5, "Input/output error"))
    assert "Input/output error" in capsys.readouterr().err
