"""One agent's stream: what it is sent, and what ends it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from controller.config import SyncSettings
from controller.plan import Planner
from controller.sessions import Hub, Refuse, Session, batches
from controller.snapshot import Snapshot
from controller.store.base import Change
from podwire.api.v1 import node_sync_pb2 as sync
from podwire.api.v1 import state_pb2 as state
from podwire.errors import Conflict, InvalidInput, PodwireError, Unavailable
from podwire.model.cluster import API_VERSION, parse_cluster
from tests.unit.step_clock import StepClock, settle, until

CLUSTER = parse_cluster({"apiVersion": API_VERSION, "kind": "Cluster"})


class Quiet:
    """A listener that admits everybody and remembers what it heard."""

    def __init__(self) -> None:
        self.reports: list[state.NodeReport] = []
        self.synced_nodes: list[str] = []
        self.admitted = asyncio.Event()
        self.admitted.set()

    async def admit(self, node: str, hello: sync.Hello, refuse_for_now: Refuse) -> None:
        if not self.admitted.is_set():
            await refuse_for_now()
        await self.admitted.wait()

    def reported(self, node: str, report: state.NodeReport) -> None:
        self.reports.append(report)

    def heard(self, node: str) -> None:
        pass

    def synced(self, node: str) -> None:
        self.synced_nodes.append(node)


class Stream:
    """A session of node a, with both ends of its stream in the test's hands."""

    def __init__(self, **settings: Any) -> None:
        self.clock = StepClock()
        self.snapshot = Snapshot(CLUSTER)
        self.hub = Hub(self.snapshot, self.clock, SyncSettings(**settings), store_id="store", epoch=3)
        self.listener = Quiet()
        self.sent: list[sync.SyncResponse] = []
        self.up: asyncio.Queue[sync.SyncRequest | None] = asyncio.Queue()
        self.revision = 0
        self.commit(nodes={"a": {"spec": {"podCIDRs": ["10.244.0.0/24"]}}})

    def commit(
        self, *, nodes: dict[str, Any] | None = None, pods: list[str] | None = None, gone: tuple[str, ...] = ()
    ) -> None:
        """The store moves on by one revision."""
        self.revision += 1
        changes = []
        for name, fields in (nodes or {}).items():
            doc = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "uid": name}, **fields}
            changes.append(Change(self.revision, f"/objects/nodes/-/{name}", msgspec.json.encode(doc), None))
        for name in pods or ():
            number = int(name.removeprefix("p"))
            doc = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": "default", "uid": name, "generation": self.revision},
                "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "agnhost"}]},
            }
            owner = {"owner": name, "node": "a"}
            key = f"/allocations/pod-addresses/10.244.0.{number + 2}"
            changes.append(Change(self.revision, key, msgspec.json.encode(owner), None))
            changes.append(Change(self.revision, f"/objects/pods/default/{name}", msgspec.json.encode(doc), None))
        changes += [Change(self.revision, f"/objects/pods/default/{name}", None, b"{}") for name in gone]
        self.hub.touched(self.snapshot.advance(changes, self.revision, self.clock.monotonic()))

    async def send(self, message: sync.SyncResponse) -> None:
        self.sent.append(sync.SyncResponse.FromString(message.SerializeToString()))

    async def receive(self) -> sync.SyncRequest | None:
        return await self.up.get()

    def open(self, **hello: Any) -> asyncio.Task[None]:
        self.up.put_nowait(sync.SyncRequest(hello=sync.Hello(boot_id="b", **hello)))
        return asyncio.create_task(Session(self.hub, "a", self, self.listener).run())

    def ack(self, revision: int, epoch: int = 3, error: str = "") -> None:
        self.up.put_nowait(sync.SyncRequest(ack=sync.Ack(epoch=epoch, revision=revision, error=error)))

    def kinds(self) -> list[str]:
        return [str(message.WhichOneof("message")) for message in self.sent]

    def deltas(self) -> list[sync.Delta]:
        return [message.delta for message in self.sent if message.WhichOneof("message") == "delta"]

    async def synced(self) -> asyncio.Task[None]:
        task = self.open()
        await until(lambda: "end" in self.kinds(), "a snapshot")
        self.ack(self.sent[-1].end.revision)
        await settle()
        return task


async def ended(task: asyncio.Task[None]) -> PodwireError:
    with pytest.raises(PodwireError) as caught:
        await asyncio.wait_for(task, 5)
    return caught.value


async def test_opens_with_a_snapshot() -> None:
    """Welcome, BEGIN, chunks, END; the agent counts as synced once it acknowledged."""
    stream = Stream()
    stream.commit(pods=["p1", "p2"])
    task = await stream.synced()
    assert stream.kinds() == ["welcome", "begin", "chunk", "chunk", "end"]
    assert stream.sent[0].welcome == sync.Welcome(store_id="store", epoch=3, adopt_store=True, heartbeat_s=5)
    assert stream.sent[1].begin == sync.Begin(epoch=3, revision=2, store_id="store")
    assert list(stream.sent[2].chunk.node.pod_cidrs) == ["10.244.0.0/24"]
    assert stream.sent[4].end.pods == 2
    assert stream.listener.synced_nodes == ["a"]
    assert stream.hub.agents["a"].revision_applied == 2
    task.cancel()


async def test_deltas_follow_each_other() -> None:
    """Each begins where the last ended; what did not change is not said again."""
    stream = Stream()
    task = await stream.synced()
    stream.commit(pods=["p1"])
    await until(lambda: len(stream.deltas()) == 1, "the first delta")
    stream.ack(2)
    stream.commit(pods=["p2"], gone=("p1",))
    await until(lambda: len(stream.deltas()) == 2, "the second")
    first, second = stream.deltas()
    assert (first.base, first.revision, [pod.uid for pod in first.pods]) == (1, 2, ["p1"])
    assert (second.base, second.revision, [pod.uid for pod in second.pods]) == (2, 3, ["p2"])
    assert list(second.removed_uids) == ["p1"]
    assert not second.cluster
    assert not second.HasField("node")
    task.cancel()


async def test_changes_gather_while_the_agent_is_busy() -> None:
    """With the window full, whatever happens becomes one message."""
    stream = Stream(window=1)
    task = await stream.synced()
    stream.commit(pods=["p1"])
    await until(lambda: len(stream.deltas()) == 1, "the first delta")
    for number in range(2, 60):
        stream.commit(pods=[f"p{number}"])
        await settle(3)
    assert len(stream.deltas()) == 1
    stream.ack(2)
    await until(lambda: len(stream.deltas()) == 2, "the rest")
    assert len(stream.deltas()[1].pods) == 58
    task.cancel()


async def test_a_slow_agent_gets_news_all_the_same() -> None:
    """An agent that stops a pod for a minute must hear of others meanwhile."""
    stream = Stream(window=1, ack_timeout_s=2.0)
    task = await stream.synced()
    stream.commit(pods=["p1"])
    await until(lambda: len(stream.deltas()) == 1, "the first delta")
    stream.commit(pods=["p2"])
    await stream.clock.advance(1.5)
    assert len(stream.deltas()) == 1
    await stream.clock.advance(1)
    assert len(stream.deltas()) == 2
    task.cancel()


async def test_heartbeats_move_the_revision_on() -> None:
    """Nothing to do is said every five seconds, and the next delta starts there."""
    stream = Stream()
    task = await stream.synced()
    stream.commit()
    await stream.clock.advance(5.1)
    assert stream.sent[-1].heartbeat == sync.Heartbeat(epoch=3, revision=2)
    stream.commit(pods=["p1"])
    await until(lambda: len(stream.deltas()) == 1, "a delta")
    assert stream.deltas()[0].base == 2
    task.cancel()


async def test_a_heartbeat_never_passes_over_a_change() -> None:
    """While a change waits for the window, the revision stays."""
    stream = Stream(window=1, ack_timeout_s=60.0)
    task = await stream.synced()
    stream.commit(pods=["p1"])
    await until(lambda: len(stream.deltas()) == 1, "a delta")
    stream.commit(pods=["p2"])
    await stream.clock.advance(6)
    assert stream.sent[-1].heartbeat == sync.Heartbeat(epoch=3, revision=2)
    task.cancel()


async def test_large_snapshots_come_in_chunks() -> None:
    """No message is larger than it may be, and all together are the plan."""
    stream = Stream(chunk_bytes=2000)
    stream.commit(pods=[f"p{number}" for number in range(50)])
    task = await stream.synced()
    chunks = [message.chunk for message in stream.sent if message.WhichOneof("message") == "chunk"]
    assert all(chunk.ByteSize() < 2100 for chunk in chunks)
    assert sum(len(chunk.pods) for chunk in chunks) == 50
    stream.commit(pods=[f"p{number}" for number in range(50)])
    await until(lambda: sum(len(delta.pods) for delta in stream.deltas()) == 50, "all again")
    bases = [(delta.base, delta.revision) for delta in stream.deltas()]
    assert bases[0] == (2, 3)
    assert set(bases[1:]) == {(3, 3)}
    task.cancel()


def test_one_pod_larger_than_a_chunk_goes_alone() -> None:
    large = state.PodState(uid="x", hostname="h" * 100)
    assert [len(batch) for batch in batches([large, large], 50)] == [1, 1]


async def test_an_agent_that_waits_is_kept_company() -> None:
    """During a recovery there are heartbeats and nothing else."""
    stream = Stream()
    stream.listener.admitted.clear()
    task = stream.open(store_id="other")
    await stream.clock.advance(11)
    assert stream.kinds() == ["welcome", "heartbeat", "heartbeat"]
    assert not stream.sent[0].welcome.adopt_store
    stream.listener.admitted.set()
    await until(lambda: "end" in stream.kinds(), "a snapshot")
    task.cancel()


async def test_a_report_is_newer_than_the_hello_before_it() -> None:
    """An agent that reports while it waits to be admitted is not put back to what its Hello held."""
    stream = Stream()
    stream.listener.admitted.clear()
    task = stream.open(inventory=state.NodeReport(pod_mtu=1, complete=True))
    stream.up.put_nowait(sync.SyncRequest(report=state.NodeReport(pod_mtu=2)))
    await settle()
    stream.listener.admitted.set()
    await until(lambda: len(stream.listener.reports) == 2, "both reports")
    assert [report.pod_mtu for report in stream.listener.reports] == [1, 2]
    task.cancel()


async def test_the_newest_stream_wins() -> None:
    """An agent that lost its connection must not wait for the old one to be noticed."""
    stream = Stream()
    old = await stream.synced()
    other = asyncio.Queue[sync.SyncRequest | None]()
    stream.up = other
    new = stream.open()
    assert isinstance(await ended(old), Unavailable)
    await settle()
    assert stream.hub.agents["a"].connected
    new.cancel()


async def test_stale_acknowledgements_are_not_counted() -> None:
    """One of an older epoch says nothing about this stream."""
    stream = Stream()
    task = stream.open()
    await until(lambda: "end" in stream.kinds(), "a snapshot")
    stream.ack(1, epoch=2)
    await settle()
    assert stream.listener.synced_nodes == []
    stream.ack(1, error="no bridge")
    await settle()
    assert stream.listener.synced_nodes == []
    assert stream.hub.agents["a"].apply_error == "no bridge"
    task.cancel()


async def test_what_ends_a_stream() -> None:
    """An acknowledgement of what was never sent, a second Hello, no Hello, and silence instead of one."""
    stream = Stream()
    task = await stream.synced()
    stream.ack(99)
    assert isinstance(await ended(task), Conflict)

    stream = Stream()
    task = await stream.synced()
    stream.up.put_nowait(sync.SyncRequest(hello=sync.Hello()))
    assert isinstance(await ended(task), InvalidInput)

    stream = Stream()
    stream.ack(1)
    task = stream.open()
    assert isinstance(await ended(task), InvalidInput)

    stream = Stream()
    task = asyncio.create_task(Session(stream.hub, "a", stream, stream.listener).run())
    await stream.clock.advance(11)
    assert isinstance(await ended(task), Unavailable)


async def test_the_agents_end_is_a_quiet_end() -> None:
    stream = Stream()
    task = await stream.synced()
    stream.up.put_nowait(None)
    await asyncio.wait_for(task, 5)
    assert not stream.hub.agents["a"].connected


def test_unchanged_pods_are_the_same_objects() -> None:
    """A status write changes a document and not the plan."""
    stream = Stream()
    stream.commit(pods=["p1"])
    planner = Planner()
    before = planner.node(stream.snapshot, "a").pods["p1"]
    doc = stream.snapshot.pods["p1"].doc | {"status": {"phase": "Running"}}
    change = Change(9, "/objects/pods/default/p1", msgspec.json.encode(doc), b"")
    stream.snapshot.advance([change], 9, 0)
    assert planner.node(stream.snapshot, "a").pods["p1"] is before
