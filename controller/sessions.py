"""One agent's Sync stream, as a state machine over any transport.

In: a verified node name, `SyncRequest`s, and wake-ups when the snapshot moved. Out: `SyncResponse`s; what the agent says goes to a
`Listener` (the reconciler).

    Hello ─► admitted (known store, or rebuilt from inventories) ─► Welcome ─► BEGIN, chunks, END ─► deltas and heartbeats

What was sent is remembered pod by pod; a delta is the difference to the plan as it is now, so that any number of changes in between
becomes one message. At most `window` messages are unacknowledged: while an agent is busy, its next batch grows.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from controller.config import SyncSettings
from controller.plan import NodePlan, Planner, compile_cluster
from controller.snapshot import Snapshot, Touched
from podwire.api.v1 import node_sync_pb2 as sync
from podwire.api.v1 import state_pb2 as state
from podwire.errors import Conflict, InvalidInput, Unavailable
from podwire.seams import Clock, failpoint
from podwire.waiting import event_within, within

log = structlog.get_logger(__name__)


class Transport(Protocol):
    """An open stream from an agent."""

    async def send(self, message: sync.SyncResponse) -> None:
        """Sends one message; raises Unavailable when the stream broke."""

    async def receive(self) -> sync.SyncRequest | None:
        """The next message; None when the agent ended the stream. Raises Unavailable when it broke."""


class Listener(Protocol):
    """Who hears what agents say."""

    async def admit(self, node: str, hello: sync.Hello, refuse_for_now: Refuse) -> None:
        """Returns when the agent may adopt our state: its Node has address ranges, and what it holds is in the store.
        `refuse_for_now` tells it to keep what it has meanwhile.

        Raises:
            PermissionDenied: the node was deleted.
            Conflict: what it holds contradicts the store.
        """

    def reported(self, node: str, report: state.NodeReport) -> None:
        """The agent reported."""

    def heard(self, node: str) -> None:
        """The agent said anything at all."""

    def synced(self, node: str) -> None:
        """The agent acknowledged our state for the first time on this stream."""


class Refuse(Protocol):
    """Tells an agent to keep what it has and to wait."""

    async def __call__(self) -> None:
        """Sends Welcome with adopt_store false."""


@dataclass(slots=True)
class Agent:
    """What is known of an agent, connected or not."""

    node: str
    session: Session | None = None
    boot_id: str = ""
    version: str = ""
    underlay_addresses: tuple[str, ...] = ()
    agent_port: int = 0
    revision_applied: int = 0
    apply_error: str = ""
    synced: bool = False
    last_seen_unix_ms: int = 0
    pod_mtu: int = 0
    privileges: str = ""
    degraded: tuple[str, ...] = ()
    capabilities: dict[str, tuple[bool, str]] = field(default_factory=dict)

    @property
    def connected(self) -> bool:
        """Whether a stream is open."""
        return self.session is not None


class Hub:
    """All agents, and the compiled plan that their sessions share."""

    def __init__(self, snapshot: Snapshot, clock: Clock, settings: SyncSettings, *, store_id: str, epoch: int) -> None:
        self.snapshot = snapshot
        self.clock = clock
        self.settings = settings
        self.store_id = store_id
        self.epoch = epoch
        self.agents: dict[str, Agent] = {}
        self._planner = Planner()
        self._cluster: bytes | None = None

    def agent(self, node: str) -> Agent:
        """The record of a node's agent."""
        return self.agents.setdefault(node, Agent(node))

    def touched(self, touched: Touched) -> None:
        """The snapshot moved: wakes the sessions that have something to send."""
        if touched.cluster:
            self._cluster = None
        for uid in touched.pods - self.snapshot.pods.keys():
            self._planner.forget(uid)
        for node in self.agents if touched.cluster else touched.bound | touched.nodes:
            agent = self.agents.get(node)
            if agent and agent.session:
                agent.session.wake()

    def cluster(self) -> bytes:
        """The cluster-wide part: the same object until it changes."""
        if self._cluster is None:
            self._cluster = compile_cluster(self.snapshot)
        return self._cluster

    def plan(self, node: str) -> NodePlan:
        """A node's own part."""
        return self._planner.node(self.snapshot, node)

    def drop(self, node: str, reason: str) -> None:
        """Closes a node's stream, if there is one, and forgets the node."""
        agent = self.agents.pop(node, None)
        if agent and agent.session:
            agent.session.close(reason)


class Session:
    """One stream; `run` lives as long as it does."""

    def __init__(self, hub: Hub, node: str, transport: Transport, listener: Listener) -> None:
        self._hub = hub
        self._node = node
        self._transport = transport
        self._listener = listener
        self._clock = hub.clock
        self._settings = hub.settings
        self._wakeup = asyncio.Event()
        self._dirty = False  # the plan may differ from what was sent
        self._changed_unix_ms = 0
        self._inventoried = asyncio.Event()
        self._closing = asyncio.Event()
        self._reason = ""
        self._unacknowledged: list[int] = []
        self._sent_at = 0.0  # when anything was said
        self._told_at = 0.0  # when a change was
        self._revision = 0  # as the agent knows it once all messages have arrived
        self._cluster = b""
        self._config = state.NodeConfig()
        self._pods: dict[str, state.PodState] = {}

    def wake(self) -> None:
        """Something of this node's plan changed."""
        if not self._dirty:
            self._changed_unix_ms = int(self._clock.wall() * 1000)
        self._dirty = True
        self._wakeup.set()

    def close(self, reason: str) -> None:
        """Ends the stream soon."""
        self._reason = reason
        self._closing.set()

    async def run(self) -> None:
        """Serves the stream until it ends.

        Raises:
            Unavailable: it broke, or a newer stream of the same node took its place.
            Conflict, InvalidInput: the agent said what cannot be; it should start over.
            PermissionDenied: the node was deleted.
        """
        hello = await self._hello()
        agent = self._hub.agent(self._node)
        if agent.session is not None:
            agent.session.close("the agent opened another stream")
        agent.session = self
        agent.synced = False
        _note_hello(agent, hello)
        parts = (self._receive(agent), self._serve(hello), self._closing.wait())
        tasks = [asyncio.ensure_future(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if agent.session is self:
                agent.session = None
        for task in done:
            task.result()
        if self._closing.is_set():
            raise Unavailable(f"the stream of node {self._node} is closed: {self._reason}")

    async def _hello(self) -> sync.Hello:
        message = await within(self._clock, self._settings.hello_timeout_s, self._transport.receive())
        if message is None or message.WhichOneof("message") != "hello":
            raise InvalidInput(f"the stream of node {self._node} must open with Hello", field="hello")
        self._listener.heard(self._node)
        return message.hello

    async def _receive(self, agent: Agent) -> None:
        while (message := await self._transport.receive()) is not None:
            agent.last_seen_unix_ms = int(self._clock.wall() * 1000)
            self._listener.heard(self._node)
            match message.WhichOneof("message"):
                case "ack":
                    self._acknowledged(agent, message.ack)
                case "report":
                    await self._inventoried.wait()  # what Hello held is older, though it may be taken in later
                    note_report(agent, message.report)
                    self._listener.reported(self._node, message.report)
                case _:
                    raise InvalidInput(f"node {self._node} said Hello twice on one stream", field="hello")

    def _acknowledged(self, agent: Agent, ack: sync.Ack) -> None:
        if ack.epoch != self._hub.epoch or not self._cluster:
            return  # of what it had before this stream
        if ack.revision > self._revision:
            raise Conflict(f"node {self._node} acknowledged revision {ack.revision}, which it was never sent")
        self._unacknowledged = [revision for revision in self._unacknowledged if revision > ack.revision]
        agent.revision_applied = ack.revision
        agent.apply_error = ack.error
        if not agent.synced and not ack.error:
            agent.synced = True
            self._listener.synced(self._node)
        self._wakeup.set()

    async def _serve(self, hello: sync.Hello) -> None:
        beating = asyncio.ensure_future(self._beat_until_admitted())
        try:
            await self._listener.admit(self._node, hello, self._refuse)
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
        await self._welcome(adopt=True)
        if hello.HasField("inventory"):
            note_report(self._hub.agent(self._node), hello.inventory)
            self._listener.reported(self._node, hello.inventory)
        self._inventoried.set()
        await self._send_snapshot()
        while True:
            now = self._clock.monotonic()
            beat_due = self._sent_at + self._settings.heartbeat_s
            delta_due = self._told_at + self._settings.ack_timeout_s if self._dirty else beat_due
            if self._dirty and (self._has_room() or now >= delta_due):
                await self._send_delta()
            elif now >= beat_due:
                await self._beat()
            else:
                await event_within(self._clock, min(beat_due, delta_due) - now, self._wakeup)
                self._wakeup.clear()

    async def _refuse(self) -> None:
        await self._welcome(adopt=False)

    async def _welcome(self, *, adopt: bool) -> None:
        welcome = sync.Welcome(
            store_id=self._hub.store_id,
            epoch=self._hub.epoch,
            adopt_store=adopt,
            heartbeat_s=max(1, round(self._settings.heartbeat_s)),
        )
        await self._transport.send(sync.SyncResponse(welcome=welcome))

    async def _beat_until_admitted(self) -> None:
        """The agent must not take a long recovery for a dead controller."""
        while True:
            await self._clock.sleep(self._settings.heartbeat_s)
            await self._beat()

    async def _beat(self) -> None:
        """Nothing to do here; the revision moves on. Without a snapshot yet it is a sign of life only."""
        if self._cluster and not self._dirty:
            self._revision = max(self._revision, self._hub.snapshot.revision)
        heartbeat = sync.Heartbeat(epoch=self._hub.epoch, revision=self._revision)
        self._sent_at = self._clock.monotonic()
        await self._transport.send(sync.SyncResponse(heartbeat=heartbeat))

    def _has_room(self) -> bool:
        return len(self._unacknowledged) < self._settings.window

    async def _send_snapshot(self) -> None:
        self._dirty = False
        hub, revision = self._hub, self._hub.snapshot.revision
        plan, cluster = hub.plan(self._node), hub.cluster()
        begin = sync.Begin(epoch=hub.epoch, revision=revision, store_id=hub.store_id)
        await self._transport.send(sync.SyncResponse(begin=begin))
        digest = hashlib.sha256()
        first = sync.Chunk(cluster=cluster, node=plan.config)
        for chunk in (
            first,
            *(sync.Chunk(pods=pods) for pods in batches(plan.pods.values(), self._settings.chunk_bytes)),
        ):
            digest.update(chunk.SerializeToString(deterministic=True))
            await self._transport.send(sync.SyncResponse(chunk=chunk))
        end = sync.End(revision=revision, pods=len(plan.pods), hash=digest.digest())
        self._sent(revision, cluster, plan)
        failpoint("session.snapshot_sent")
        await self._transport.send(sync.SyncResponse(end=end))

    async def _send_delta(self) -> None:
        self._dirty = False
        hub, revision = self._hub, self._hub.snapshot.revision
        plan, cluster = hub.plan(self._node), hub.cluster()
        base, known = self._revision, self._pods
        changed = [pod for uid, pod in plan.pods.items() if known.get(uid) is not pod]
        removed = [uid for uid in known if uid not in plan.pods]
        new_cluster = cluster if cluster is not self._cluster and cluster != self._cluster else b""
        new_config = plan.config if plan.config != self._config else None
        if not (changed or removed or new_cluster or new_config is not None):
            self._cluster = cluster
            return
        self._sent(revision, cluster, plan)
        parts = list(batches(changed, self._settings.chunk_bytes)) or [[]]
        for index, pods in enumerate(parts):
            delta = sync.Delta(
                epoch=hub.epoch,
                base=base,
                revision=revision,
                pods=pods,
                changed_unix_ms=self._changed_unix_ms,
            )
            if index == 0:  # what all pods depend on, and what must give way to them
                delta.cluster = new_cluster
                delta.removed_uids.extend(removed)
                if new_config is not None:
                    delta.node.CopyFrom(new_config)
            await self._transport.send(sync.SyncResponse(delta=delta))
            failpoint("session.delta_sent")
            base = revision

    def _sent(self, revision: int, cluster: bytes, plan: NodePlan) -> None:
        self._revision, self._cluster, self._config, self._pods = revision, cluster, plan.config, plan.pods
        self._sent_at = self._told_at = self._clock.monotonic()
        if not self._has_room():
            self._unacknowledged.clear()
        self._unacknowledged.append(revision)


def batches(pods: Iterable[state.PodState], limit: int) -> Iterator[list[state.PodState]]:
    """Pods in lists of at most `limit` serialised bytes; one that is larger goes alone."""
    batch: list[state.PodState] = []
    size = 0
    for pod in pods:
        own = pod.ByteSize() + 8
        if batch and size + own > limit:
            yield batch
            batch, size = [], 0
        batch.append(pod)
        size += own
    if batch:
        yield batch


def _note_hello(agent: Agent, hello: sync.Hello) -> None:
    agent.boot_id = hello.boot_id
    agent.version = hello.version
    agent.agent_port = hello.agent_port
    if hello.underlay_addresses:
        agent.underlay_addresses = tuple(hello.underlay_addresses)


def note_report(agent: Agent, report: state.NodeReport) -> None:
    """Takes over what a report says of the node itself."""
    if report.underlay_addresses:
        agent.underlay_addresses = tuple(report.underlay_addresses)
    agent.pod_mtu = report.pod_mtu or agent.pod_mtu
    agent.privileges = report.privileges or agent.privileges
    agent.degraded = tuple(report.degraded)
    if report.capabilities:
        agent.capabilities = {each.name: (each.available, each.detail) for each in report.capabilities}
