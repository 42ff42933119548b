"""Desired state: what the controller wants of this node, assembled from the sync stream.

In: messages of `SyncResponse`. Out: a `Desired` value, whole or not at all, and the journal records that keep it. Pure: no I/O, no
time. Only a complete snapshot (END with matching counts and hash) or a delta's explicit word may remove anything; a gap, an older
epoch or a broken hash raises Conflict, and the caller closes the stream and asks anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from nodeagent.journal import Record
from podwire.api.v1 import node_sync_pb2 as sync
from podwire.api.v1 import state_pb2 as state
from podwire.errors import Conflict

SNAPSHOT_RECORD = 1
DELTA_RECORD = 2
REMOVED_RECORD = 3  # UID of a pod of which nothing is left


@dataclass(frozen=True, slots=True)
class Desired:
    """Everything the controller wants here, at one revision. `removing` holds pods that it has ordered gone and of which something
    may be left; a pod in neither map is unknown, and what is unknown is left alone until a complete snapshot has been seen.
    """

    store_id: str = ""
    epoch: int = 0
    revision: int = 0
    cluster: state.ClusterState = field(default_factory=state.ClusterState)
    node: state.NodeConfig = field(default_factory=state.NodeConfig)
    pods: Mapping[str, state.PodState] = field(default_factory=dict)
    removing: frozenset[str] = frozenset()

    @property
    def known(self) -> bool:
        """Whether the node's own part has ever arrived: before that there is no network to make."""
        return bool(self.node.pod_cidrs) and bool(self.cluster.cluster)


class Assembler:
    """Feeds on the stream and holds the newest whole `Desired`."""

    def __init__(self) -> None:
        self.desired = Desired()
        self.live = False  # a complete snapshot arrived on the present stream: what it did not name may go
        self._adopting = ""  # the store whose snapshot may replace what another store (or a later revision) said
        self._begin: sync.Begin | None = None
        self._chunks: list[sync.Chunk] = []
        self._hash = hashlib.sha256()

    def restart(self) -> None:
        """A new stream: an unfinished snapshot is dropped, and nothing unknown may be swept until the next END."""
        self.live = False
        self._adopting = ""
        self._begin = None
        self._chunks = []

    def welcome(self, welcome: sync.Welcome) -> None:
        """The controller's answer to Hello: with `adopt_store` it has taken our inventory into account, and its word counts even
        when its store is another one or its revision lower than ours.
        """
        if welcome.adopt_store:
            self._adopting = welcome.store_id

    def feed(self, message: sync.SyncResponse) -> list[Record] | None:
        """Takes one message; returns the records to make durable when the desired state moved on, else None.

        Raises:
            Conflict: the stream does not follow from what came before; close it and say Hello again.
        """
        match message.WhichOneof("message"):
            case "begin":
                self._start(message.begin)
            case "chunk":
                self._collect(message.chunk)
            case "end":
                return self._finish(message.end)
            case "delta":
                return self._advance(message.delta)
            case "heartbeat":
                self._pass(message.heartbeat)
        return None

    def _start(self, begin: sync.Begin) -> None:
        now = self.desired
        if begin.store_id == now.store_id != self._adopting and begin.epoch < now.epoch:
            raise Conflict(
                f"a snapshot of epoch {begin.epoch} came after epoch {now.epoch}: an older controller speaks"
            )
        same_history = begin.store_id == now.store_id and begin.revision >= now.revision
        if now.store_id and not same_history and begin.store_id != self._adopting:
            raise Conflict(
                f"the snapshot at revision {begin.revision} is of another history than ours at {now.revision}"
            )
        self._begin = begin
        self._chunks = []
        self._hash = hashlib.sha256()

    def _collect(self, chunk: sync.Chunk) -> None:
        if self._begin is None:
            raise Conflict("a chunk came before BEGIN")
        self._chunks.append(chunk)
        self._hash.update(chunk.SerializeToString(deterministic=True))

    def _finish(self, end: sync.End) -> list[Record]:
        begin = self._begin
        if begin is None or end.revision != begin.revision:
            raise Conflict("END does not belong to the snapshot that began")
        pods = {pod.uid: pod for chunk in self._chunks for pod in chunk.pods}
        if len(pods) != end.pods or self._hash.digest() != end.hash:
            raise Conflict(
                f"snapshot at revision {end.revision} is damaged: {len(pods)} of {end.pods} pods, or another hash"
            )
        self._begin = None
        gone = (frozenset(self.desired.pods) | self.desired.removing) - frozenset(pods)
        cluster, node = state.ClusterState(), state.NodeConfig()
        for chunk in self._chunks:
            if chunk.cluster:
                cluster.ParseFromString(chunk.cluster)
            if chunk.HasField("node"):
                node.CopyFrom(chunk.node)
        self._chunks = []
        self.desired = Desired(begin.store_id, begin.epoch, begin.revision, cluster, node, pods, gone)
        self.live = True
        return [snapshot_record(self.desired)]

    def _advance(self, delta: sync.Delta) -> list[Record]:
        now = self.desired
        if not self.live or delta.epoch != now.epoch or delta.base != now.revision:
            raise Conflict(
                f"delta from revision {delta.base} (epoch {delta.epoch}) does not follow revision {now.revision} (epoch {now.epoch})"
            )
        self.desired = with_delta(now, delta)
        return [Record(DELTA_RECORD, delta.SerializeToString())]

    def _pass(self, heartbeat: sync.Heartbeat) -> None:
        now = self.desired
        if not self.live:
            return
        if heartbeat.epoch != now.epoch or heartbeat.revision < now.revision:
            raise Conflict(
                f"heartbeat of revision {heartbeat.revision} (epoch {heartbeat.epoch}) is older than {now.revision} (epoch {now.epoch})"
            )
        self.desired = replace(now, revision=heartbeat.revision)

    def removed(self, uids: Iterable[str]) -> list[Record]:
        """Forgets pods of which nothing is left; returns the records that say so."""
        gone = frozenset(uids) & self.desired.removing
        self.desired = replace(self.desired, removing=self.desired.removing - gone)
        return [Record(REMOVED_RECORD, uid.encode()) for uid in sorted(gone)]

    def load(self, records: Iterable[Record]) -> None:
        """Goes back to where the journal ends. The stream is not live: nothing unknown may be swept."""
        desired = Desired()
        for record in records:
            if record.kind == SNAPSHOT_RECORD:
                desired = _from_snapshot(record.payload)
            elif record.kind == DELTA_RECORD:
                desired = with_delta(desired, sync.Delta.FromString(record.payload))
            elif record.kind == REMOVED_RECORD:
                desired = replace(desired, removing=desired.removing - {record.payload.decode()})
        self.desired = desired
        self.restart()


def with_delta(desired: Desired, delta: sync.Delta) -> Desired:
    """The desired state after a delta. A pod whose generation went back is kept as it is."""
    pods = dict(desired.pods)
    for pod in delta.pods:
        known = pods.get(pod.uid)
        if known is None or pod.generation >= known.generation:
            pods[pod.uid] = pod
    for uid in delta.removed_uids:
        pods.pop(uid, None)
    cluster = state.ClusterState.FromString(delta.cluster) if delta.cluster else desired.cluster
    return Desired(
        store_id=desired.store_id,
        epoch=delta.epoch,
        revision=delta.revision,
        cluster=cluster,
        node=delta.node if delta.HasField("node") else desired.node,
        pods=pods,
        removing=(desired.removing | frozenset(delta.removed_uids)) - frozenset(pods),
    )


def snapshot_record(desired: Desired) -> Record:
    """Everything in one record: a Begin, a Chunk and the removals, each with its length before it."""
    begin = sync.Begin(epoch=desired.epoch, revision=desired.revision, store_id=desired.store_id)
    chunk = sync.Chunk(cluster=desired.cluster.SerializeToString(), node=desired.node, pods=desired.pods.values())
    removing = "\n".join(sorted(desired.removing)).encode()
    parts = [
        part
        for blob in (begin.SerializeToString(), chunk.SerializeToString(), removing)
        for part in (len(blob).to_bytes(4, "big"), blob)
    ]
    return Record(SNAPSHOT_RECORD, b"".join(parts))


def _from_snapshot(payload: bytes) -> Desired:
    blobs: list[bytes] = []
    offset = 0
    while offset < len(payload):
        size = int.from_bytes(payload[offset : offset + 4], "big")
        blobs.append(payload[offset + 4 : offset + 4 + size])
        offset += 4 + size
    begin, chunk = sync.Begin.FromString(blobs[0]), sync.Chunk.FromString(blobs[1])
    return Desired(
        store_id=begin.store_id,
        epoch=begin.epoch,
        revision=begin.revision,
        cluster=state.ClusterState.FromString(chunk.cluster),
        node=chunk.node,
        pods={pod.uid: pod for pod in chunk.pods},
        removing=frozenset(blobs[2].decode().split("\n")) - {""},
    )
