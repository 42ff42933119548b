"""The agent's durable memory: what it was told (desired state) and what it is about to do (slots).

In: records, appended in batches with one sync each. Out: the same records, in order, at the next start. The file is a log of
`length, CRC-32, kind, payload`; a torn tail (a crash inside an append) is cut off, a bad record in the middle ends the reading and is
reported, never skipped over. It is rewritten when most of it is history. What the records mean is the caller's business.

A file beside it holds a little space: on a full disk it is given up, so that what was decided before and removals can still be written.
"""

from __future__ import annotations

import errno
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from podwire.seams import Disk, failpoint

_HEAD = struct.Struct(">IIB")
REWRITE_FLOOR_BYTES = 256 * 1024  # smaller logs are not worth rewriting
RESERVE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Record:
    """One entry: `kind` is a small number of the caller's, `payload` its bytes."""

    kind: int
    payload: bytes


def encode(records: Iterable[Record]) -> bytes:
    """The records as they stand in the file."""
    parts: list[bytes] = []
    for record in records:
        body = bytes([record.kind]) + record.payload
        parts += (_HEAD.pack(len(record.payload), zlib.crc32(body), record.kind), record.payload)
    return b"".join(parts)


def decode(content: bytes) -> tuple[list[Record], int]:
    """The whole records at the start of `content`, and how many bytes they take."""
    records: list[Record] = []
    offset = 0
    while offset + _HEAD.size <= len(content):
        size, checksum, kind = _HEAD.unpack_from(content, offset)
        end = offset + _HEAD.size + size
        payload = content[offset + _HEAD.size : end]
        if len(payload) < size or zlib.crc32(bytes([kind]) + payload) != checksum:
            break
        records.append(Record(kind, payload))
        offset = end
    return records, offset


class Journal:
    """The log at one path. `compacted` gives the records that say all that is true now, for rewriting."""

    def __init__(self, disk: Disk, path: Path, compacted: Callable[[], Sequence[Record]]) -> None:
        self._disk = disk
        self._path = path
        self._reserve = path.with_name(path.name + ".reserve")
        self._reserved = False
        self._compacted = compacted
        self._size = 0
        self._live = 0
        self.lost_bytes = 0

    def open(self) -> list[Record]:
        """Reads the log; a damaged tail is cut off the file, its length kept in `lost_bytes`."""
        content = self._disk.read(self._path) or b""
        records, used = decode(content)
        self.lost_bytes = len(content) - used
        if self.lost_bytes:
            self._disk.replace(self._path, content[:used])
        self._size = self._live = used
        self._reserved = self._disk.read(self._reserve) is not None
        self._take_reserve()
        return records

    def append(self, records: Sequence[Record]) -> None:
        """Adds a batch with one sync; raises OSError with nothing half-added that a later `open` would believe."""
        if not records:
            return
        content = encode(records)
        self._take_reserve()
        try:
            self._disk.append(self._path, content)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._reserved:
                raise
            self._disk.remove(self._reserve)
            self._reserved = False
            self._disk.append(self._path, content)
        failpoint("journal.appended")
        self._size += len(content)
        if self._size > max(REWRITE_FLOOR_BYTES, 4 * self._live):
            self.rewrite()

    def _take_reserve(self) -> None:
        if not self._reserved:
            with suppress(OSError):
                self._disk.replace(self._reserve, bytes(RESERVE_BYTES))
                self._reserved = True

    def rewrite(self) -> None:
        """Replaces the log by what is true now."""
        content = encode(self._compacted())
        self._disk.replace(self._path, content)
        failpoint("journal.rewritten")
        self._size = self._live = len(content)
