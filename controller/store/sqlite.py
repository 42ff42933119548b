"""The store in one SQLite file: durable, checked, for one process.

In: groups of staged transactions. Out: rows on the disk, and at opening the image that they hold. `committer.py` does everything else.

* One connection, on one thread, writes and checkpoints; the file is locked for as long as it is open.
* WAL where this SQLite is free of the WAL-reset bug (3.7.0 to 3.51.2, see https://sqlite.org/wal.html), else a rollback journal
  that keeps its place on the disk (PERSIST), so that a removal seldom needs more of it. Either way synchronous=EXTRA, which is
  FULL and a sync of the directory after a journal is unlinked: acknowledged means it survives power loss.
* SQLite notices few flipped bits in row payloads. So each row has a checksum over all its columns, and the head row has one over the
  XOR of them all: a changed, lost or doubled row is found at opening, before anything relies on it.
* A reserve file is freed when the disk is full, so that releasing things never fails for want of space.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

from controller.store.base import Entry
from controller.store.committer import DiskFull, DurableStore, exit_process
from controller.store.ledger import HISTORY, Image, Staged
from podwire.errors import PodwireError, Unavailable, Unsupported
from podwire.seams import Rng

SCHEMA_VERSION = 1
RESERVE_BYTES = 8 * 1024 * 1024
_CHECKSUM_BYTES = 16
_SCHEMA = """
CREATE TABLE head (
    id INTEGER PRIMARY KEY CHECK (id = 1), store_id TEXT NOT NULL, epoch INTEGER NOT NULL, revision INTEGER NOT NULL,
    checksum BLOB NOT NULL
) STRICT;
CREATE TABLE entries (
    key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL, created INTEGER NOT NULL, checksum BLOB NOT NULL
) STRICT;
"""
_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN}  # CANTOPEN: no inode left for the journal
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class StoreDamaged(PodwireError):
    """The file is not what was written to it. Move it aside: agents' reports rebuild the allocations of a new one."""


def wal_is_safe(version: tuple[int, int, int]) -> bool:
    """Whether a SQLite of this version may use WAL, as the bug's fix was also ported back to 3.44.6 and 3.50.7."""
    return version >= (3, 51, 3) or (3, 44, 6) <= version < (3, 45) or (3, 50, 7) <= version < (3, 51)


async def open_sqlite(
    path: Path,
    rng: Rng,
    *,
    history: int = HISTORY,
    reserve_bytes: int = RESERVE_BYTES,
    on_fatal: Callable[[BaseException], None] = exit_process,
) -> DurableStore:
    """Opens the store in a file, or makes it; the directory has to be on a local disk.

    Raises:
        StoreDamaged: a checksum does not hold.
        Unavailable: another process has it open.
        Unsupported: a newer podwire wrote it, or this SQLite is older than 3.37.
    """
    backing = SqliteBacking(path, rng, reserve_bytes=reserve_bytes)
    return await DurableStore.open(backing, history=history, on_fatal=on_fatal)


class SqliteBacking:
    """`committer.Backing` over one file; see the module's docstring."""

    def __init__(self, path: Path, rng: Rng, *, reserve_bytes: int = RESERVE_BYTES) -> None:
        self._path = path
        self._rng = rng
        self._reserve = path.with_name(path.name + ".reserve")
        self._reserve_bytes = reserve_bytes
        self._reserve_given_up = False
        self._connection: sqlite3.Connection | None = None
        self._checksums: dict[str, bytes] = {}
        self._digest = 0  # XOR of all rows' checksums
        self._head = Image(store_id="", epoch=0, revision=0, entries={})  # as durable; its entries stay empty

    def load(self) -> Image:
        if sqlite3.sqlite_version_info < (3, 37, 0):
            raise Unsupported(f"SQLite {sqlite3.sqlite_version} lacks STRICT tables; 3.37 or newer is needed")
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        try:
            self._connection = self._connect()
            (pages,) = self._execute("PRAGMA page_count").fetchone()  # rolls back what a crash left half-done
            image = self._read() if pages else self._create()
            image.epoch += 1
            self._head = Image(image.store_id, image.epoch, image.revision, {})
            self._raise_epoch()
        except sqlite3.DatabaseError as error:
            raise self._explained(error) from error
        return image

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=0, isolation_level=None)
        journal = "WAL" if wal_is_safe(sqlite3.sqlite_version_info) else "PERSIST"
        for pragma in ("locking_mode=EXCLUSIVE", f"journal_mode={journal}", "synchronous=EXTRA", "cell_size_check=ON"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def _create(self) -> Image:
        image = Image(store_id=self._rng.uid(), epoch=0, revision=0, entries={})
        self._execute("BEGIN EXCLUSIVE")
        for statement in filter(str.strip, _SCHEMA.split(";")):
            self._execute(statement)
        checksum = _head_checksum(image.store_id, 0, 0, 0)
        self._execute("INSERT INTO head VALUES (1, ?, 0, 0, ?)", (image.store_id, checksum))
        self._execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        self._execute("COMMIT")
        return image

    def _read(self) -> Image:
        (version,) = self._execute("PRAGMA user_version").fetchone()
        if version != SCHEMA_VERSION:
            raise Unsupported(f"store {self._path} has schema {version}; this podwire knows {SCHEMA_VERSION} only")
        (verdict,) = self._execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise self._damaged(str(verdict))
        entries: dict[str, Entry] = {}
        for key, value, revision, created, checksum in self._execute(
            "SELECT key, value, revision, created, checksum FROM entries"
        ):
            try:
                entry = Entry(key, value, revision, created)
                intact = _row_checksum(entry) == checksum
            except (TypeError, AttributeError, struct.error):  # not even the types are left
                intact = False
            if not intact:
                raise self._damaged(f"the row of {key!r} does not match its checksum")
            entries[key] = entry
            self._checksums[key] = checksum
            self._digest ^= int.from_bytes(checksum, "big")
        head = self._execute("SELECT store_id, epoch, revision, checksum FROM head").fetchone()
        if head is None:
            raise self._damaged("the head row is gone")
        store_id, epoch, revision, checksum = head
        if checksum != _head_checksum(store_id, epoch, revision, self._digest):
            raise self._damaged("the head row does not match the others: rows were lost or changed")
        return Image(store_id, epoch, revision, entries)

    def _raise_epoch(self) -> None:
        try:
            self._commit({}, self._head.revision)
        except DiskFull:
            self.give_up_reserve()
            try:
                self._commit({}, self._head.revision)
            except DiskFull as error:
                raise Unavailable(f"store {self._path} cannot be opened: the disk is full") from error

    def write(self, staged: Sequence[Staged]) -> None:
        final: dict[str, Entry | None] = {}
        for one in staged:
            final.update(one.entries)
        self._commit(final, staged[-1].batch.revision)

    def _commit(self, final: dict[str, Entry | None], revision: int) -> None:
        checksums = {key: _row_checksum(entry) for key, entry in final.items() if entry is not None}
        digest = self._digest
        for key in final:
            for checksum in (self._checksums.get(key, b""), checksums.get(key, b"")):
                digest ^= int.from_bytes(checksum, "big")
        head = self._head
        rows = [
            (entry.key, entry.value, entry.revision, entry.created, checksums[entry.key])
            for entry in final.values()
            if entry is not None
        ]
        try:
            self._execute("BEGIN IMMEDIATE")
            connection = self._open_connection
            connection.executemany(
                "DELETE FROM entries WHERE key = ?", [(key,) for key in final if key not in checksums]
            )
            connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)", rows)
            self._execute(
                "UPDATE head SET epoch = ?, revision = ?, checksum = ?",
                (head.epoch, revision, _head_checksum(head.store_id, head.epoch, revision, digest)),
            )
            self._execute("COMMIT")
        except sqlite3.OperationalError as error:
            if _code(error) not in _FULL:
                raise
            if self._open_connection.in_transaction:
                self._execute("ROLLBACK")
            raise DiskFull(str(self._path)) from error
        self._digest = digest
        head.revision = revision
        for key in final:
            if key in checksums:
                self._checksums[key] = checksums[key]
            else:
                self._checksums.pop(key, None)

    @property
    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise Unavailable(f"store {self._path} is not open")
        return self._connection

    def _execute(self, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        return self._open_connection.execute(statement, values)

    def take_reserve(self) -> bool:
        try:
            if self._reserve_given_up and _free_bytes(self._path.parent) < 2 * self._reserve_bytes:
                return False
            fd = os.open(self._reserve, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(fd, 0, self._reserve_bytes)
            finally:
                os.close(fd)
        except OSError:
            self.give_up_reserve()
            return False
        self._reserve_given_up = False
        return True

    def give_up_reserve(self) -> None:
        self._reserve_given_up = True
        self._reserve.unlink(missing_ok=True)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _explained(self, error: sqlite3.DatabaseError) -> PodwireError:
        code = _code(error)
        if code in _BUSY:
            return Unavailable(f"store {self._path} is open in another process", hint="stop the other controller")
        if code in _FULL:
            return Unavailable(f"store {self._path} cannot be opened: {error} (is the disk full?)")
        if code == sqlite3.SQLITE_IOERR:
            return Unavailable(f"store {self._path} cannot be read: {error}")
        return self._damaged(str(error))

    def _damaged(self, how: str) -> StoreDamaged:
        return StoreDamaged(
            f"store {self._path} is damaged: {how}",
            hint=f"move {self._path} aside and start again: the agents' reports rebuild the allocations",
        )


def _free_bytes(directory: Path) -> int:
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 where the Python module itself complains."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _row_checksum(entry: Entry) -> bytes:
    digest = blake2b(entry.key.encode(), digest_size=_CHECKSUM_BYTES)
    digest.update(struct.pack("<Bqq", 0, entry.revision, entry.created))
    digest.update(entry.value)
    return digest.digest()


def _head_checksum(store_id: str, epoch: int, revision: int, digest: int) -> bytes:
    said = f"{store_id} {epoch} {revision} {digest:x}"
    return blake2b(said.encode(), digest_size=_CHECKSUM_BYTES).digest()
