"""The ledger against a model: any schedule of staging, publishing, abandoning and compacting."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from controller.store.base import Absent, Entry, Precondition, Put, Remove, Unchanged, Write
from controller.store.ledger import Image, Ledger
from podwire.errors import Conflict, Exhausted, Expired

KEYS = st.sampled_from(["/a", "/a/1", "/a/2", "/b", "/b/1"])
WRITES = st.dictionaries(KEYS, st.none() | st.binary(max_size=2), max_size=3).map(
    lambda writes: [Remove(key) if value is None else Put(key, value) for key, value in writes.items()]
)
PRECONDITIONS = st.lists(KEYS.map(Absent) | st.builds(Unchanged, KEYS, st.integers(0, 12)), max_size=2)


class LedgerMachine(RuleBasedStateMachine):
    """What is published equals what a plain dict says after the same transactions, and history replays to it."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(Image("id", 1, 0, {}), history=8)
        self.published: dict[str, Entry] = {}
        self.revision = 0
        self.ahead: dict[str, Entry] = {}
        self.ahead_revision = 0

    @rule(preconditions=PRECONDITIONS, writes=WRITES)
    def stage(self, preconditions: list[Precondition], writes: list[Write]) -> None:
        held = all(self._holds(one) for one in preconditions)
        try:
            staged = self.ledger.stage(preconditions, writes)
        except Conflict:
            assert not held
            return
        assert held
        effective = [write for write in writes if isinstance(write, Put) or write.key in self.ahead]
        assert [change.key for change in staged.batch.changes] == [write.key for write in effective]
        assert staged.batch.revision == self.ahead_revision + bool(effective)
        self.ahead_revision = staged.batch.revision
        for write in effective:
            if isinstance(write, Put):
                created = self.ahead[write.key].created if write.key in self.ahead else self.ahead_revision
                self.ahead[write.key] = Entry(write.key, write.value, self.ahead_revision, created)
            else:
                del self.ahead[write.key]

    def _holds(self, precondition: Precondition) -> bool:
        entry = self.ahead.get(precondition.key)
        if isinstance(precondition, Absent):
            return entry is None
        return entry is not None and entry.revision == precondition.revision

    @rule()
    def publish(self) -> None:
        before, replayed = self.revision, {key: entry.value for key, entry in self.published.items()}
        self.ledger.publish()
        self.published, self.revision = dict(self.ahead), self.ahead_revision
        try:
            told = self.ledger.since(before, "/")
        except Expired:
            return
        for change in (change for batch in told for change in batch.changes):
            assert change.previous == replayed.get(change.key)
            if change.value is None:
                del replayed[change.key]
            else:
                replayed[change.key] = change.value
        assert replayed == {key: entry.value for key, entry in self.published.items()}

    @rule()
    def abandon(self) -> None:
        self.ledger.abandon()
        self.ahead, self.ahead_revision = dict(self.published), self.revision

    @rule(before=st.integers(0, 30))
    def compact(self, before: int) -> None:
        self.ledger.compact(before)

    @invariant()
    def readers_see_what_is_published(self) -> None:
        assert self.ledger.revision == self.revision
        assert list(self.ledger.list("/")) == [self.published[key] for key in sorted(self.published)]
        for prefix in ("/a", "/a/", "/b/"):
            expected = [self.published[key] for key in sorted(self.published) if key.startswith(prefix)]
            assert list(self.ledger.list(prefix)) == expected


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.lists(st.integers(1, 5), max_size=40), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_history_is_whole_or_expired(sizes: list[int], after: int) -> None:
    """Never a gap: either every change after a revision is told, or the watcher must list again."""
    ledger = Ledger(Image("id", 1, 0, {}), history=10)
    for size in sizes:
        ledger.stage((), [Put(f"/{n}", b"") for n in range(size)])
        ledger.publish()
    try:
        told = ledger.since(after, "/")
    except Expired:
        kept = sum(sizes[after:])
        assert after > len(sizes) or kept > 10
        return
    assert [batch.revision for batch in told] == list(range(after + 1, len(sizes) + 1))
    assert sum(len(batch.changes) for batch in told) == sum(sizes[after:])


def test_on_a_full_disk_a_key_may_take_the_place_of_another() -> None:
    """A freed address leaves the mark that it rests: for that mark no pod could be deleted when the disk was full."""
    ledger = Ledger(Image("id", 1, 0, {}))
    ledger.stage((), [Put("/allocation", b"")])
    ledger.stage((), [Remove("/allocation"), Put("/resting", b"")], new_keys=False)
    with pytest.raises(Exhausted, match="/more"):
        ledger.stage((), [Put("/resting", b"again"), Put("/more", b"")], new_keys=False)
    with pytest.raises(Exhausted, match="/more"):
        ledger.stage((), [Remove("/not/there"), Put("/more", b"")], new_keys=False)
    ledger.publish()
    assert [entry.key for entry in ledger.list("/")] == ["/resting"]
