"""The agent's journal: what was appended comes back, a torn tail does not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.journal import RESERVE_BYTES, REWRITE_FLOOR_BYTES, Journal, Record, decode, encode
from podwire.seams import SystemDisk

records = st.lists(st.builds(Record, st.integers(1, 9), st.binary(max_size=40)), max_size=12)


@given(records)
def test_records_come_back_in_order(given_records: list[Record]) -> None:
    """What was written is read, whole."""
    content = encode(given_records)
    assert decode(content) == (given_records, len(content))


@given(records, st.data())
def test_a_torn_tail_costs_only_the_records_in_it(given_records: list[Record], data: st.DataObject) -> None:
    """However many bytes of the last write are missing, the records before it are read."""
    content = encode(given_records)
    cut = data.draw(st.integers(0, len(content)))
    whole, used = decode(content[:cut])
    assert whole == given_records[: len(whole)]
    assert used <= cut


@given(records.filter(bool), st.data())
def test_a_flipped_bit_is_never_believed(given_records: list[Record], data: st.DataObject) -> None:
    """A damaged record ends the reading; no record is ever read wrong."""
    content = bytearray(encode(given_records))
    place = data.draw(st.integers(0, len(content) * 8 - 1))
    content[place // 8] ^= 1 << (place % 8)
    whole, _ = decode(bytes(content))
    assert whole == given_records[: len(whole)]


def test_a_damaged_tail_is_cut_off_the_file(tmp_path: Path) -> None:
    """After a crash inside an append the next append follows the last whole record."""
    path = tmp_path / "journal"
    first = Journal(SystemDisk(), path, list)
    first.open()
    first.append([Record(1, b"one"), Record(2, b"two")])
    path.write_bytes(path.read_bytes() + b"\x00\x00\x00\x05torn")
    second = Journal(SystemDisk(), path, list)
    assert [record.payload for record in second.open()] == [b"one", b"two"]
    assert second.lost_bytes > 0
    second.append([Record(3, b"three")])
    assert [record.kind for record in Journal(SystemDisk(), path, list).open()] == [1, 2, 3]


def test_a_log_of_history_is_rewritten(tmp_path: Path) -> None:
    """Past the floor and four times what is true, only what is true is kept."""
    path = tmp_path / "journal"
    journal = Journal(SystemDisk(), path, lambda: [Record(1, b"now")])
    journal.open()
    journal.append([Record(1, b"x" * (REWRITE_FLOOR_BYTES + 1))])
    assert Journal(SystemDisk(), path, list).open() == [Record(1, b"now")]


class FullDisk(SystemDisk):
    """Refuses what needs space, except that a removed file leaves some."""

    def __init__(self) -> None:
        self.full = False
        self.freed = False

    def append(self, path: Path, content: bytes) -> None:
        if self.full and not self.freed:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().append(path, content)

    def replace(self, path: Path, content: bytes) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().replace(path, content)

    def remove(self, path: Path) -> None:
        self.freed = True
        super().remove(path)


def test_on_a_full_disk_the_reserve_is_written(tmp_path: Path) -> None:
    """No pod could be deleted there: its end could not be noted before it was made. The reserve comes back with the space."""
    disk, path = FullDisk(), tmp_path / "journal"
    journal = Journal(disk, path, list)
    journal.open()
    reserve = tmp_path / "journal.reserve"
    assert reserve.stat().st_size == RESERVE_BYTES
    disk.full = True
    journal.append([Record(1, b"leaves")])
    assert not reserve.exists()
    disk.freed = False
    with pytest.raises(OSError, match="No space left"):
        journal.append([Record(1, b"too much")])
    disk.full = False
    journal.append([Record(2, b"later")])
    assert reserve.exists()
    assert [record.payload for record in Journal(disk, path, list).open()] == [b"leaves", b"later"]


def test_an_append_that_failed_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a record would hide every record after it from the next start."""
    path = tmp_path / "journal"
    journal = Journal(SystemDisk(), path, list)
    journal.open()
    journal.append([Record(1, b"one")])
    real = os.write
    calls: list[int] = []

    def short(fd: int, data: memoryview) -> int:
        calls.append(fd)
        if len(calls) > 1:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, data[:3])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", short)
        with pytest.raises(OSError, match="Input/output"):
            journal.append([Record(2, b"lost")])
    journal.append([Record(3, b"three")])
    assert [record.kind for record in Journal(SystemDisk(), path, list).open()] == [1, 3]
