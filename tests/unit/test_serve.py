"""The controller over real sockets: joining, streams, documents, and calls that go on to agents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from controller.ca import ClusterCA
from controller.config import Settings
from controller.controller import Controller
from controller.serve.listeners import Addresses, Listeners
from controller.store.memory import MemoryStore
from nodeagent.transport import GrpcTransport
from podwire import rpc, tls
from podwire.api.v1 import control_pb2, control_pb2_grpc, node_agent_pb2_grpc, node_sync_pb2_grpc
from podwire.api.v1 import node_agent_pb2 as agent
from podwire.api.v1 import node_sync_pb2 as sync
from podwire.client import ControlClient, connect
from podwire.errors import InvalidInput, NotFound, Unauthenticated, Unavailable
from podwire.identity import Credentials, Role
from podwire.model.cluster import API_VERSION, parse_cluster
from podwire.seams import SystemClock, SystemDisk, SystemRng

CLUSTER = parse_cluster({"apiVersion": API_VERSION, "kind": "Cluster", "metadata": {"name": "lab"}})


@dataclass
class Site:
    """A controller that listens, and a user."""

    controller: Controller
    ca: ClusterCA
    listeners: Listeners
    client: ControlClient

    async def join(self, node: str) -> Credentials:
        """What an agent does with a token."""
        made = await self.client.create_join_token(node, zone="z1")
        return await self.redeem(node, made.token)

    async def redeem(self, node: str, token: str) -> Credentials:
        key, csr = tls.make_key_and_csr(node)
        channel = rpc.stranger_channel("127.0.0.1", self.listeners.join_port, self.ca.ca_pem)
        try:
            stub = node_sync_pb2_grpc.JoinServiceStub(channel)
            answer = await rpc.call(stub.Join, sync.JoinRequest(token=token, node=node, csr_pem=csr))
        finally:
            await channel.close(None)
        return Credentials(key, answer.certificate_pem, answer.ca_pem)

    def stream(self, papers: Credentials) -> GrpcTransport:
        return GrpcTransport(rpc.channel("127.0.0.1", self.listeners.port, papers))


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    clock, rng = SystemClock(), SystemRng()
    controller = Controller(MemoryStore(rng), clock, rng, Settings(cluster=CLUSTER))
    await controller.start()
    ca = ClusterCA.open("lab", tmp_path / "ca", clock=clock, rng=rng, disk=SystemDisk())
    addresses = Addresses(tmp_path / "c.sock", ("127.0.0.1", 0), ("127.0.0.1", 0))
    listeners = Listeners(controller, ca, addresses, clock=clock, rng=rng)
    await listeners.start()
    async with connect(socket=tmp_path / "c.sock") as client:
        yield Site(controller, ca, listeners, client)
    await controller.stop()
    await listeners.stop()
    await controller.store.close()


class Echo(node_agent_pb2_grpc.NodeAgentServiceServicer):
    """An agent that answers with what it was asked."""

    async def Exec(self, request_iterator: Any, context: object) -> AsyncIterator[agent.ExecResponse]:  # noqa: N802
        async for message in request_iterator:
            if message.HasField("start"):
                yield agent.ExecResponse(stdout=f"{message.start.pod_uid} {message.start.argv}".encode())
            elif message.HasField("stdin"):
                yield agent.ExecResponse(stdout=message.stdin)
            else:
                break
        yield agent.ExecResponse(exit=agent.ExecExit(code=7))

    async def Logs(self, request: agent.LogsRequest, context: object) -> AsyncIterator[agent.LogsResponse]:  # noqa: N802
        yield agent.LogsResponse(data=f"log of {request.namespace}/{request.pod}".encode())

    async def Probe(self, request: agent.ProbeRequest, context: object) -> agent.ProbeResponse:  # noqa: N802
        return agent.ProbeResponse(
            results=[agent.ProbeResult(id=each.id, ok=True, answer=each.address.encode()) for each in request.targets]
        )

    async def Health(self, request: agent.HealthRequest, context: object) -> agent.HealthResponse:  # noqa: N802
        return agent.HealthResponse(live=True)

    async def Inspect(self, request: agent.InspectRequest, context: object) -> agent.InspectResponse:  # noqa: N802
        return agent.InspectResponse(facts=[agent.Fact(kind="bridge", name="pw-bridge")])


async def drained(stream: GrpcTransport) -> None:
    """Reads until the stream ends."""
    while await stream.receive() is not None:
        pass


def pod(name: str, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "c", "image": "agnhost"}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": containers, **spec}}


async def test_a_node_joins_and_is_told_its_state(site: Site) -> None:
    """Token, certificate, stream, snapshot; the node is who its certificate names, and has the zone of its token."""
    papers = await site.join("a")
    stream = site.stream(papers)
    hello = sync.Hello(boot_id="b", underlay_addresses=["127.0.0.1"], agent_port=1)
    await stream.send(sync.SyncRequest(hello=hello))
    seen: list[sync.SyncResponse] = []
    while not seen or seen[-1].WhichOneof("message") != "end":
        message = await stream.receive()
        assert message is not None
        seen.append(message)
    assert [str(message.WhichOneof("message")) for message in seen] == ["welcome", "begin", "chunk", "end"]
    node = await site.client.get("nodes", "a")
    assert node["metadata"]["labels"]["topology.kubernetes.io/zone"] == "z1"
    status = await site.client.status()
    assert [(each.name, each.connected, list(each.pod_cidrs)) for each in status.nodes] == [
        ("a", True, ["10.244.0.0/24"])
    ]
    await stream.close()


async def test_a_token_serves_one_node_once(site: Site) -> None:
    """A used token, and one for another node, are worth nothing."""
    made = await site.client.create_join_token("a")
    with pytest.raises(Unauthenticated):
        await site.redeem("b", made.token)
    await site.redeem("a", made.token)
    with pytest.raises(Unauthenticated):
        await site.redeem("a", made.token)


async def test_a_deleted_node_does_not_come_back_by_itself(site: Site) -> None:
    """Its certificate counts no more; with a new token it is a new node."""
    papers = await site.join("a")
    stream = site.stream(papers)
    await stream.send(sync.SyncRequest(hello=sync.Hello(boot_id="b", underlay_addresses=["127.0.0.1"])))
    assert await stream.receive() is not None
    while not site.controller.snapshot.nodes.get("a"):
        await stream.receive()
    await site.client.delete("nodes", "a")
    with pytest.raises(Unavailable):
        await drained(stream)
    with pytest.raises(Unavailable, match="revoked"):
        await drained(site.stream(papers))
    await site.join("a")


async def test_documents(site: Site) -> None:
    """Apply is all or nothing, and says what it did; a watch goes on from a list."""
    applied = await site.client.apply([pod("p1"), pod("p2")])
    assert [each.outcome for each in applied] == ["created", "created"]
    assert [each.outcome for each in await site.client.apply([pod("p1")])] == ["unchanged"]
    with pytest.raises(InvalidInput) as caught:
        await site.client.apply([pod("p3"), pod("p4", restartPolicy="x")])
    assert caught.value.field == "spec.restartPolicy"
    listed = await site.client.list("po", namespace="default")
    assert [doc["metadata"]["name"] for doc in listed.documents] == ["p1", "p2"]
    _, changed = await site.client.patch("pods", "p1", {"metadata": {"labels": {"a": "b"}}}, namespace="default")
    assert changed
    seen = []
    async for event in site.client.watch("pods", label_selector="a=b"):
        seen.append((event.type, event.document.get("metadata", {}).get("name")))
        if event.type == "BOOKMARK":
            break
    assert seen == [("ADDED", "p1"), ("BOOKMARK", None)]
    await site.client.delete("pods", "p1", namespace="default")
    with pytest.raises(NotFound):
        await site.client.get("pods", "p1", namespace="default")


async def test_calls_go_on_to_the_agent(site: Site) -> None:
    """Exec, logs and probes arrive at the node of the pod, with its UID."""
    papers = await site.join("a")
    server = rpc.server(
        {
            f"/podwire.api.v1.NodeAgentService/{name}": frozenset({Role.CONTROLLER})
            for name in ("Exec", "Inspect", "Logs", "Probe")
        },
        "lab",
        clock=SystemClock(),
        rng=SystemRng(),
    )
    node_agent_pb2_grpc.add_NodeAgentServiceServicer_to_server(Echo(), server)
    port = rpc.listen_tls(server, "127.0.0.1", 0, rpc.ServerCredentials(papers))
    await server.start()
    stream = site.stream(papers)
    hello = sync.Hello(boot_id="b", underlay_addresses=["127.0.0.1"], agent_port=port)
    await stream.send(sync.SyncRequest(hello=hello))
    while (message := await stream.receive()) and message.WhichOneof("message") != "end":
        pass
    await site.client.apply([pod("p", nodeName="a")])
    while (message := await stream.receive()) and message.WhichOneof("message") != "delta":
        pass
    assert message is not None
    uid = message.delta.pods[0].uid

    async def typed() -> AsyncIterator[agent.ExecRequest]:
        yield agent.ExecRequest(stdin=b"hello")
        yield agent.ExecRequest(stdin_closed=True)

    start = agent.ExecStart(namespace="default", pod="p", argv=["id"], stdin=True)
    answers = [answer async for answer in site.client.exec(start, typed())]
    assert [answer.stdout for answer in answers[:2]] == [f"{uid} ['id']".encode(), b"hello"]
    assert answers[-1].exit.code == 7
    assert [data async for data in site.client.logs("p", namespace="default")] == [b"log of default/p"]
    pair = control_pb2.PairProbe(id="x", namespace="default", pod="p", address="10.244.0.9")
    results = await site.client.probe([pair])
    assert [(result.id, result.ok, result.answer) for result in results] == [("x", True, b"10.244.0.9")]
    assert [fact.name for fact in await site.client.inspect("a")] == ["pw-bridge"]
    with pytest.raises(NotFound, match="no container 'x'"):
        _ = [data async for data in site.client.logs("p", namespace="default", container="x")]
    with pytest.raises(NotFound, match="pod default/q does not exist"):
        _ = [data async for data in site.client.logs("q", namespace="default")]
    await stream.close()
    await server.stop(0)


async def test_health(site: Site) -> None:
    """Anyone who reaches a listener may ask whether it serves."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    channel = rpc.stranger_channel("127.0.0.1", site.listeners.join_port, site.ca.ca_pem)
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError, match=r"UNAUTHENTICATED|UNIMPLEMENTED"):
        await control_pb2_grpc.ControlServiceStub(channel).Status(control_pb2.StatusRequest(), timeout=5)
    await channel.close(None)
