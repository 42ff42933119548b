"""An agent for controller tests: speaks the Sync protocol over queues and holds pods in a dict, with no kernel behind it."""

from __future__ import annotations

import asyncio
import hashlib

from controller.controller import Controller
from podwire.api.v1 import node_sync_pb2 as sync
from podwire.api.v1 import state_pb2 as state
from podwire.errors import PodwireError


class Queues:
    """Both directions of one stream."""

    def __init__(self) -> None:
        self.up: asyncio.Queue[sync.SyncRequest | None] = asyncio.Queue()
        self.down: asyncio.Queue[sync.SyncResponse] = asyncio.Queue()

    async def send(self, message: sync.SyncResponse) -> None:
        self.down.put_nowait(sync.SyncResponse.FromString(message.SerializeToString()))

    async def receive(self) -> sync.SyncRequest | None:
        return await self.up.get()


class ScriptedAgent:
    """Applies what it is told at once and reports its pods as running, unless told to hold still."""

    def __init__(self, node: str, address: str) -> None:
        self.node = node
        self.address = address
        self.store_id = ""
        self.epoch = 0
        self.revision = 0
        self.pods: dict[str, state.PodState] = {}
        self.cluster = state.ClusterState()
        self.pod_cidrs: list[str] = []
        self.messages: list[sync.SyncResponse] = []
        self.acknowledges = True
        self.stops_pods = True
        self.error: PodwireError | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._queues = Queues()
        self._chunks: list[sync.Chunk] = []
        self._begin = sync.Begin()

    def connect(self, controller: Controller) -> None:
        self._queues = Queues()
        hello = sync.Hello(
            boot_id="boot-1",
            store_id=self.store_id,
            epoch=self.epoch,
            revision=self.revision,
            underlay_addresses=[self.address],
            agent_port=7445,
            version="0.1.0",
            inventory=self._report(self.pods.values(), complete=True),
            pod_cidrs=self.pod_cidrs,
        )
        self._queues.up.put_nowait(sync.SyncRequest(hello=hello))
        self._tasks = [asyncio.create_task(self._serve(controller)), asyncio.create_task(self._listen())]

    async def disconnect(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def report(self, report: state.NodeReport) -> None:
        self._queues.up.put_nowait(sync.SyncRequest(report=report))

    async def _serve(self, controller: Controller) -> None:
        try:
            await controller.session(self.node, self._queues)
        except PodwireError as error:
            self.error = error

    async def _listen(self) -> None:
        while True:
            message = await self._queues.down.get()
            self.messages.append(message)
            self._take(message)

    def _take(self, message: sync.SyncResponse) -> None:
        match message.WhichOneof("message"):
            case "begin":
                self._begin, self._chunks = message.begin, []
            case "chunk":
                self._chunks.append(message.chunk)
            case "end":
                digest = hashlib.sha256()
                for chunk in self._chunks:
                    digest.update(chunk.SerializeToString(deterministic=True))
                    if chunk.cluster:
                        self.cluster.ParseFromString(chunk.cluster)
                    if chunk.HasField("node"):
                        self.pod_cidrs = list(chunk.node.pod_cidrs)
                assert digest.digest() == message.end.hash
                pods = {pod.uid: pod for chunk in self._chunks for pod in chunk.pods}
                assert len(pods) == message.end.pods
                self.store_id, self.epoch = self._begin.store_id, self._begin.epoch
                self._apply(list(pods.values()), [uid for uid in self.pods if uid not in pods], self._begin.revision)
            case "delta":
                assert message.delta.base == self.revision, "a gap"
                if message.delta.cluster:
                    self.cluster.ParseFromString(message.delta.cluster)
                self._apply(list(message.delta.pods), list(message.delta.removed_uids), message.delta.revision)
            case "heartbeat":
                if self.revision:
                    self.revision = message.heartbeat.revision
                    self.acknowledge()

    def _apply(self, pods: list[state.PodState], removed: list[str], revision: int) -> None:
        self.revision = revision
        gone = list(removed)
        for pod in pods:
            self.pods[pod.uid] = pod
            if pod.terminating and self.stops_pods:
                gone.append(pod.uid)
        for uid in gone:
            self.pods.pop(uid, None)
        if self.acknowledges:
            self.acknowledge()
            report = self._report([pod for pod in pods if pod.uid in self.pods])
            report.removed_uids.extend(gone)
            self.report(report)

    def acknowledge(self, error: str = "") -> None:
        ack = sync.Ack(epoch=self.epoch, revision=self.revision, error=error)
        self._queues.up.put_nowait(sync.SyncRequest(ack=ack))

    def _report(self, pods: object, *, complete: bool = False) -> state.NodeReport:
        assert hasattr(pods, "__iter__")
        return state.NodeReport(
            pods=[running(pod) for pod in pods], underlay_addresses=[self.address], complete=complete, pod_mtu=1450
        )


def running(pod: state.PodState, *, ready: bool = True) -> state.PodReport:
    """A report of a pod whose containers all run."""
    return state.PodReport(
        uid=pod.uid,
        namespace=pod.namespace,
        name=pod.name,
        generation=pod.generation,
        addresses=pod.addresses,
        phase=state.POD_PHASE_RUNNING,
        started_unix_ms=1_000_000,
        manifest=pod.manifest,
        containers=[
            state.ContainerReport(
                name=container.name,
                phase=state.CONTAINER_PHASE_RUNNING,
                ready=ready,
                started=True,
                started_unix_ms=1_000_000,
                kind=container.kind,
            )
            for container in pod.containers
        ],
    )
