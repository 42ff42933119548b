"""The store in a file: the contract, and what only a disk can do to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from controller.store.base import Put, Remove, Store
from controller.store.committer import DurableStore
from controller.store.sqlite import StoreDamaged, open_sqlite, wal_is_safe
from podwire.errors import PodwireError, Unavailable, Unsupported
from podwire.seams import SeededRng
from tests.unit.store_contract import Opener, StoreContract, put


async def opened(path: Path, *, history: int = 10_000) -> DurableStore:
    """Opens with a small reserve, and without ending the test's process."""
    return await open_sqlite(path, SeededRng(1), history=history, reserve_bytes=4096, on_fatal=lambda _: None)


class TestSqliteStore(StoreContract):
    """Passes the contract."""

    @pytest.fixture
    def opener(self, tmp_path: Path) -> Opener:
        async def opener(history: int = 10_000) -> Store:
            return await opened(tmp_path / "store" / "store.db", history=history)

        return opener


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 0), False),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 54, 0), True),
        ((4, 0, 0), True),
    ],
)
def test_wal_is_used_where_its_reset_bug_is_fixed(version: tuple[int, int, int], safe: bool) -> None:
    assert wal_is_safe(version) is safe


async def test_files_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "store.db"
    store = await opened(path)
    await store.transact((), [put("/a")])
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
    await store.close()


async def test_a_second_opening_is_refused(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db")
    with pytest.raises(Unavailable, match="another process"):
        await opened(tmp_path / "store.db")
    await store.close()


async def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await (await opened(path)).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=2")
    with pytest.raises(Unsupported, match="schema 2"):
        await opened(path)


async def test_another_file_is_not_taken_for_a_store(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(b"apiVersion: v1\n" * 1000)
    with pytest.raises(StoreDamaged):
        await opened(path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET value = x'00' WHERE key = '/5'",
        "UPDATE entries SET key = '/moved' WHERE key = '/5'",
        "UPDATE entries SET revision = revision + 1 WHERE key = '/5'",
        "UPDATE entries SET created = created - 1 WHERE key = '/5'",
        "DELETE FROM entries WHERE key = '/5'",
        "UPDATE head SET revision = revision - 1",
        "UPDATE head SET epoch = epoch - 1",
        "UPDATE head SET store_id = 'another'",
        "DELETE FROM head",
        "DROP TABLE head",
    ],
)
async def test_a_changed_lost_or_moved_row_is_noticed(tmp_path: Path, statement: str) -> None:
    """SQLite finds nothing wrong with any of these."""
    path = tmp_path / "store.db"
    store = await opened(path)
    for n in range(10):
        await store.transact((), [put(f"/{n}", "value")])
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement)
    with pytest.raises(StoreDamaged):
        await opened(path)


async def test_a_flipped_bit_is_noticed_or_harmless(tmp_path: Path) -> None:
    """Whatever opens is what was written."""
    path, copy = tmp_path / "store.db", tmp_path / "copy.db"
    store = await opened(path)
    for n in range(40):
        await store.transact((), [put(f"/allocations/addresses/10.244.0.{n}", f"pod-{n}" * 20)])
    for n in range(0, 40, 4):
        await store.transact((), [Remove(f"/allocations/addresses/10.244.0.{n}")])
    truth = await store.list("/")
    await store.close()
    content, rng = path.read_bytes(), SeededRng(7)
    noticed = 0
    for _ in range(150):
        flipped = bytearray(content)
        flipped[int(rng.uniform(0, len(content)))] ^= 1 << int(rng.uniform(0, 8))
        copy.write_bytes(flipped)
        try:
            again = await opened(copy)
        except PodwireError:
            noticed += 1
            continue
        found = await again.list("/")
        await again.close()
        assert found == truth
    assert noticed > 50


async def test_a_truncated_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = await opened(path)
    await store.transact((), [put(f"/{n}", "x" * 500) for n in range(100)])
    await store.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(PodwireError):
        await opened(path)


WRITER = """
import asyncio, sys
from pathlib import Path
from controller.store.base import Put
from controller.store.sqlite import open_sqlite
from podwire.seams import SystemRng

async def client(store, who):
    for n in range(1_000_000):
        key = f"{sys.argv[2]}/{who}/{n}"
        await store.transact((), [Put(key, b"x" * 200)])
        print(key, flush=True)

async def main():
    store = await open_sqlite(Path(sys.argv[1]), SystemRng(), reserve_bytes=4096)
    await asyncio.gather(*(client(store, who) for who in range(8)))

asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    """Killed in the middle of group commits, over and over on the same file."""
    path = tmp_path / "store.db"
    acknowledged: set[str] = set()
    for cycle in range(4):
        acknowledged |= _write_until_killed(path, f"/{cycle}", after=60 + 35 * cycle)
        store = await opened(path)
        assert acknowledged <= {entry.key for entry in (await store.list("/"))[0]}
        assert store.epoch == 2 * (cycle + 1)
        await store.close()


def _write_until_killed(path: Path, prefix: str, *, after: int) -> set[str]:
    """The keys that a writing process had acknowledged when it was killed, at least `after` of them."""
    command = [sys.executable, "-c", WRITER, str(path), prefix]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(after)]
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.readlines()
    return {line.strip() for line in lines if line.endswith("\n")}


async def test_many_writers_share_one_sync(tmp_path: Path) -> None:
    """Group commit: far fewer durable steps than transactions."""
    store = await opened(tmp_path / "store.db")
    steps = 0
    write = store._backing.write

    def counted(staged: Sequence[object]) -> None:
        nonlocal steps
        steps += 1
        write(staged)  # type: ignore[arg-type]

    store._backing.write = counted  # type: ignore[method-assign]
    await asyncio.gather(*(store.transact((), [Put(f"/{n}", b"")]) for n in range(300)))
    assert steps <= 3
    await store.close()
