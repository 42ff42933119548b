"""The assembler: snapshots count whole or not at all, deltas only in order, and nothing is removed without a word."""

from __future__ import annotations

import hashlib

import pytest

from nodeagent.desired import Assembler, snapshot_record
from podwire.api.v1 import node_sync_pb2 as sync
from podwire.api.v1 import state_pb2 as state
from podwire.errors import Conflict

CLUSTER = state.ClusterState(cluster="c", vni=1).SerializeToString()


def pod(uid: str, generation: int = 1) -> state.PodState:
    return state.PodState(uid=uid, name=uid, generation=generation)


def snapshot(
    *uids: str, revision: int = 5, epoch: int = 1, store: str = "s", pods: int | None = None, spoil: bool = False
) -> list[sync.SyncResponse]:
    chunks = [
        sync.Chunk(cluster=CLUSTER, node=state.NodeConfig(node="a", pod_cidrs=["10.244.0.0/24"])),
        sync.Chunk(pods=[pod(uid) for uid in uids]),
    ]
    digest = hashlib.sha256(b"".join(chunk.SerializeToString(deterministic=True) for chunk in chunks)).digest()
    end = sync.End(revision=revision, pods=len(uids) if pods is None else pods, hash=b"x" if spoil else digest)
    return [
        sync.SyncResponse(begin=sync.Begin(epoch=epoch, revision=revision, store_id=store)),
        *(sync.SyncResponse(chunk=chunk) for chunk in chunks),
        sync.SyncResponse(end=end),
    ]


def delta(
    base: int, revision: int, *pods: state.PodState, removed: tuple[str, ...] = (), epoch: int = 1
) -> sync.SyncResponse:
    return sync.SyncResponse(
        delta=sync.Delta(epoch=epoch, base=base, revision=revision, pods=pods, removed_uids=removed)
    )


def fed(*messages: sync.SyncResponse, assembler: Assembler | None = None) -> Assembler:
    assembler = assembler or Assembler()
    for message in messages:
        assembler.feed(message)
    return assembler


def test_a_snapshot_counts_only_once_it_is_whole() -> None:
    """Until END nothing of it is desired."""
    messages = snapshot("p", "q")
    assembler = fed(*messages[:-1])
    assert not assembler.desired.known
    assert not assembler.live
    fed(messages[-1], assembler=assembler)
    assert set(assembler.desired.pods) == {"p", "q"}
    assert assembler.live


@pytest.mark.parametrize(
    ("name", "before", "messages"),
    [
        ("a count that differs", [], snapshot("p", pods=2)),
        ("another hash", [], snapshot("p", spoil=True)),
        ("END without BEGIN", [], snapshot("p")[-1:]),
        ("a chunk without BEGIN", [], snapshot("p")[1:2]),
        ("a delta before any snapshot", [], [delta(0, 1, pod("p"))]),
        ("a gap between deltas", snapshot("p"), [delta(6, 7, pod("q"))]),
        ("a delta of another epoch", snapshot("p"), [delta(5, 6, pod("q"), epoch=2)]),
        ("a snapshot of an older epoch", snapshot("p", epoch=2), snapshot("q", epoch=1, revision=9)),
        ("a revision that went back", snapshot("p", revision=9), snapshot("q", revision=8)),
        ("another store", snapshot("p"), snapshot("q", store="t", revision=99)),
    ],
)
def test_what_does_not_follow_is_refused(
    name: str, before: list[sync.SyncResponse], messages: list[sync.SyncResponse]
) -> None:
    """The stream is closed, and what was desired before stays desired."""
    assembler = fed(*before)
    desired = assembler.desired
    with pytest.raises(Conflict):
        fed(*messages, assembler=assembler)
    assert assembler.desired == desired, name


def test_a_store_that_is_welcomed_may_replace_another() -> None:
    """After Welcome(adopt_store) the word of a new store counts, even at a lower revision."""
    assembler = fed(*snapshot("p", revision=90))
    assembler.restart()
    assembler.welcome(sync.Welcome(store_id="t", adopt_store=True))
    fed(*snapshot("p", revision=3, store="t"), assembler=assembler)
    assert (assembler.desired.store_id, assembler.desired.revision) == ("t", 3)
    assert set(assembler.desired.pods) == {"p"}


def test_deltas_add_change_and_remove() -> None:
    """Removed pods move to `removing`, where they stay until nothing is left of them."""
    assembler = fed(*snapshot("p", "q"), delta(5, 7, pod("r"), pod("q", 2), removed=("p",)))
    assert set(assembler.desired.pods) == {"q", "r"}
    assert assembler.desired.pods["q"].generation == 2
    assert assembler.desired.removing == {"p"}
    records = assembler.removed(["p", "stranger"])
    assert assembler.desired.removing == frozenset()
    assert [record.payload for record in records] == [b"p"]


def test_an_older_generation_changes_nothing() -> None:
    """Generations only rise."""
    assembler = fed(*snapshot("p"), delta(5, 6, pod("p", 4)), delta(6, 7, pod("p", 3)))
    assert assembler.desired.pods["p"].generation == 4


def test_a_snapshot_orders_gone_what_it_does_not_name() -> None:
    """A complete snapshot is the only way to remove without a word about the pod itself."""
    assembler = fed(*snapshot("p", "q"))
    assembler.restart()
    fed(*snapshot("q", revision=8), assembler=assembler)
    assert assembler.desired.removing == {"p"}


def test_the_journal_brings_everything_back() -> None:
    """Snapshot, deltas and removals replay to the same desired state, but not to a live stream."""
    assembler = Assembler()
    records = []
    for message in [*snapshot("p", "q", "r"), delta(5, 6, removed=("p", "q"))]:
        records += assembler.feed(message) or []
    records += assembler.removed(["q"])
    again = Assembler()
    again.load(records)
    assert again.desired == assembler.desired
    assert not again.live
    compact = Assembler()
    compact.load([snapshot_record(assembler.desired)])
    assert compact.desired == assembler.desired


def test_heartbeats_move_the_revision() -> None:
    """A node with nothing to do keeps up, and its next delta follows."""
    beat = sync.SyncResponse(heartbeat=sync.Heartbeat(epoch=1, revision=40))
    assembler = fed(*snapshot("p"), beat, delta(40, 41, pod("q")))
    assert assembler.desired.revision == 41
