"""Nodes, workload hosts and agents end and come back: addresses stay, exit codes are true, and what should run runs again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from podwire.api.v1 import node_agent_pb2 as agent
from podwire.api.v1.control_pb2 import PairProbe
from podwire.client import ControlClient
from podwire.errors import PodwireError
from podwire.seams import SystemClock
from tests.cluster import pods
from tests.cluster.harness import Cluster, eventually
from tests.cluster.inside import AGENT, WORKLOAD, Inside, output

pytestmark = pytest.mark.cluster

NODE_BACK_S, HOST_BACK_S = 10.0, 2.0
# Prints, waits until somebody connects, prints, ends with the code it is given.
ENDS_WHEN_TOLD = """
import socket, sys
gate = socket.create_server(("", 7000))
print("first words", flush=True)
gate.accept()
gate.close()
print("last words", flush=True)
sys.exit(int(sys.argv[1]))
"""
KNOCK = "import socket, sys; socket.create_connection((sys.argv[1], 7000), 5)"


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[ControlClient]:
    async with cluster.client() as connected:
        yield connected


async def answers(client: ControlClient, source: str, addresses: list[str], port: int = pods.HTTP_PORT) -> bool:
    """Whether all these addresses accept connections from a pod."""
    kind = agent.PROBE_KIND_TCP
    probes = [
        PairProbe(id=address, namespace="default", pod=source, address=address, port=port, kind=kind)
        for address in addresses
    ]
    try:
        results = await client.probe(probes, timeout_s=0.3)
    except PodwireError:
        return False
    return all(result.ok for result in results)


async def restarts(client: ControlClient, *names: str) -> list[int]:
    """How often the containers of these pods, of one each, were started again."""
    documents = [await client.get("pods", name, namespace="default") for name in names]
    return [document["status"]["containerStatuses"][0]["restartCount"] for document in documents]


async def test_a_restarted_node_brings_its_pods_back_with_their_addresses(
    cluster: Cluster, client: ControlClient
) -> None:
    process = pods.pod("a3", "a", pods.command("gate", "python3", "-m", "http.server", str(pods.HTTP_PORT)))
    async with pods.applied(client, *pods.TRIO, process) as addresses:
        on_a = [address for pod, address in addresses.items() if pod != "b1"]
        clock = SystemClock()
        await cluster.driver.restart_node("a")
        began = clock.monotonic()

        async def serve_again() -> bool:
            return await answers(client, "b1", on_a) and await restarts(client, "a1", "a2", "a3") == [1, 1, 1]

        await eventually(serve_again, "pods of the restarted node do not answer", within_s=NODE_BACK_S)
        took = clock.monotonic() - began
        assert await pods.ready(client, *addresses) == addresses
        assert took < NODE_BACK_S


async def test_containers_of_a_killed_workload_host_show_137_and_serve_again(
    cluster: Cluster, client: ControlClient
) -> None:
    inside = Inside(cluster)
    async with pods.applied(client, *pods.TRIO) as addresses:
        clock = SystemClock()
        inside.kill("a", WORKLOAD)
        began = clock.monotonic()

        async def serve_again() -> bool:
            on_a = [addresses["a1"], addresses["a2"]]
            return await restarts(client, "a1", "a2") == [1, 1] and await answers(client, "b1", on_a)

        await eventually(serve_again, "hosted containers do not serve again", within_s=20)
        took = clock.monotonic() - began
        await pods.ready(client, "a1", "a2")
        for name in ("a1", "a2"):
            (container,) = (await client.get("pods", name, namespace="default"))["status"]["containerStatuses"]
            assert container["lastState"]["terminated"]["exitCode"] == 137
        assert took < HOST_BACK_S


async def test_what_ends_while_its_agent_is_dead_is_known_afterwards(cluster: Cluster, client: ControlClient) -> None:
    """Exit code, log and restart policy, as if the agent had been there."""
    inside = Inside(cluster)
    cases = [("Never", 7), ("Never", 0), ("OnFailure", 7), ("OnFailure", 0), ("Always", 0)]
    names = [f"{policy.lower()}-{code}" for policy, code in cases]
    documents = [
        pods.pod(name, "a", pods.command("work", "python3", "-c", ENDS_WHEN_TOLD, str(code)), restartPolicy=policy)
        for name, (policy, code) in zip(names, cases, strict=True)
    ]
    async with pods.applied(client, *documents) as addresses:
        knocks = [await inside.pod(name, inside.python, "-c", KNOCK, address) for name, address in addresses.items()]

        async def all_listen() -> bool:
            return all([await has_begun(client, name) for name in names])

        await eventually(all_listen, "not all containers listen", within_s=20)
        with inside.dead("a", AGENT):
            for knock in knocks:
                await output(knock)
        for name, (policy, code) in zip(names, cases, strict=True):
            again = policy == "Always" or (policy == "OnFailure" and code != 0)

            async def settled(name: str = name, again: bool = again) -> bool:
                status = (await client.get("pods", name, namespace="default"))["status"]
                (container,) = status["containerStatuses"]
                return container["restartCount"] == 1 if again else "terminated" in container["state"]

            await eventually(settled, f"the end of {name} is not known", within_s=20)
            status = (await client.get("pods", name, namespace="default"))["status"]
            (container,) = status["containerStatuses"]
            end = (container["lastState"] if again else container["state"])["terminated"]
            assert end["exitCode"] == code, name
            assert status["phase"] == ("Running" if again else "Failed" if code else "Succeeded"), name
            chunks = client.logs(name, namespace="default", container="work", previous=again)
            assert b"".join([chunk async for chunk in chunks]) == b"first words\nlast words\n", name


async def has_begun(client: ControlClient, name: str) -> bool:
    """Whether a pod's container has got as far as its first words."""
    chunks = client.logs(name, namespace="default", container="work")
    return b"first words" in b"".join([chunk async for chunk in chunks])
