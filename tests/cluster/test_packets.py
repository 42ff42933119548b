"""Packets of pods on one node and on two: everyone reaches everyone as themselves, by way of VXLAN, and containers of a pod share an address."""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterator

import pytest

from podwire.api.v1 import node_agent_pb2 as agent
from podwire.api.v1.control_pb2 import PairProbe
from podwire.client import ControlClient
from tests.cluster import pods
from tests.cluster.harness import Cluster, eventually
from tests.cluster.inside import Inside, listening, output

pytestmark = pytest.mark.cluster


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[ControlClient]:
    async with cluster.client() as connected:
        yield connected


async def logs(client: ControlClient, pod: str, container: str) -> str:
    chunks = [chunk async for chunk in client.logs(pod, namespace="default", container=container)]
    return b"".join(chunks).decode()


async def test_all_pairs_are_reached_with_their_own_addresses(cluster: Cluster, client: ControlClient) -> None:
    async with pods.applied(client, *pods.TRIO) as addresses:
        probes, sources = [], {}
        for source, target in itertools.permutations(addresses, 2):
            for kind, port, payload in (
                (agent.PROBE_KIND_ICMP, 0, b""),
                (agent.PROBE_KIND_TCP, pods.HTTP_PORT, b""),
                (agent.PROBE_KIND_UDP, pods.UDP_PORT, b"clientip"),
            ):
                name = f"{source} to {target}, {agent.ProbeKind.Name(kind)}"
                probe = PairProbe(id=name, namespace="default", pod=source, address=addresses[target])
                probe.kind, probe.port, probe.payload = kind, port, payload
                probes.append(probe)
                sources[name] = addresses[source] if payload else ""
        results = await client.probe(probes)
        assert {result.id: result.error for result in results} == dict.fromkeys(sources, "")
        seen = {result.id: result.answer.decode().rpartition(":")[0] for result in results}
        assert seen == sources


async def test_the_underlay_carries_vxlan(cluster: Cluster, client: ControlClient) -> None:
    inside = Inside(cluster)
    async with pods.applied(client, *pods.TRIO) as addresses:
        dump = inside.node("a", "tcpdump", "-i", "eth0", "-nn", "--immediate-mode", "-l", "udp port 4789")
        async with listening(dump, says="listening on") as seen:
            await output(await inside.pod("a1", "ping", "-n", "-c", "1", "-W", "2", addresses["b1"]))
            lines = "\n".join(await seen())
    vni = next(fact.attributes["vni"] for fact in await client.inspect("a") if fact.kind == "vxlan")
    assert re.search(rf"VXLAN.*vni {vni}", lines)
    assert f"IP {addresses['a1']} > {addresses['b1']}: ICMP echo request" in lines
    assert f"IP {addresses['b1']} > {addresses['a1']}: ICMP echo reply" in lines


MEETS = "import socket; print(socket.create_connection(('127.0.0.1', 8080), 5).getpeername()[0])"
CLASHES = """
import socket
while socket.socket().connect_ex(("127.0.0.1", 8080)):
    pass
socket.create_server(("", 8080))
"""


async def test_containers_of_a_pod_meet_on_localhost(cluster: Cluster, client: ControlClient) -> None:
    both = pods.pod("pair", "a", pods.serving(), pods.command("shell", "sleep", "infinity"))
    async with pods.applied(client, both):
        start = agent.ExecStart(namespace="default", pod="pair", container="shell", argv=["python3", "-c", MEETS])
        answers = [answer async for answer in client.exec(start)]
    assert b"".join(answer.stdout for answer in answers) == b"127.0.0.1\n"
    assert answers[-1].exit.code == 0


@pytest.mark.parametrize("second", [pods.serving("second"), pods.command("second", "python3", "-c", CLASHES)])
async def test_the_second_container_on_a_port_ends_with_1(
    cluster: Cluster, client: ControlClient, second: pods.Document
) -> None:
    """Hosted or a process of its own: the kernel refuses the port, as it would anywhere."""
    clash = pods.pod("clash", "a", pods.serving("first"), second, restartPolicy="Never")
    ended: dict[str, int] = {}

    async def one_ended() -> bool:
        document = await client.get("pods", "clash", namespace="default")
        for container in document["status"].get("containerStatuses", []):
            if "terminated" in container["state"]:
                ended[container["name"]] = container["state"]["terminated"]["exitCode"]
        return bool(ended)

    try:
        await client.apply([clash])
        await eventually(one_ended, "neither container has ended", within_s=20)
        assert list(ended.values()) == [1]
        assert "address already in use" in (await logs(client, "clash", next(iter(ended)))).lower()
    finally:
        await pods.gone(client, "clash")
