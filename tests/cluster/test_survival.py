"""Controllers, agents and helpers die or stand still, and no packet of pods that talk is lost; who comes back finds nothing to do.

Every pod sends every other 1,000 numbered datagrams a second and a stream of numbers (`prober.py`), on one node and across two, from
before the disturbance until after everything is Ready again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from compose import generate
from podwire.client import ControlClient
from podwire.seams import SystemClock
from tests.cluster import pods
from tests.cluster.harness import Cluster, docker, eventually
from tests.cluster.inside import AGENT, CONTROLLER, HELPER, WORKLOAD, Inside, listening
from tests.cluster.mesh import talking

pytestmark = pytest.mark.cluster

# A minute, as the promise says, takes too long for every run: PODWIRE_TEST_STOP_S=60.
STOP_S = float(os.environ.get("PODWIRE_TEST_STOP_S", "3"))

CARRIER_NEWS_S = 1.2  # the kernel tells of carriers that came up once a second: of pods that were just made


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[ControlClient]:
    async with cluster.client() as connected:
        yield connected


@pytest.fixture(scope="module")
def trio(cluster: Cluster) -> Iterator[dict[str, str]]:
    """The same pods through all that happens here."""

    @contextlib.asynccontextmanager
    async def made() -> AsyncIterator[dict[str, str]]:
        async with cluster.client() as client:
            await client.apply(pods.TRIO)
            yield await pods.ready(client, "a1", "a2", "b1")
        async with cluster.client() as client:
            await pods.gone(client, "a1", "a2", "b1")

    with asyncio.Runner() as runner:
        context = made()
        yield runner.run(context.__aenter__())
        runner.run(context.__aexit__(None, None, None))


async def back(inside: Inside, node: str, process: str, before: int) -> None:
    """Waits until a process that was killed runs again and all nodes are Ready."""

    async def restarted() -> bool:
        return inside.pid(node, process) not in {0, before} and await inside.cluster.all_ready()

    await eventually(restarted, f"{process} of {node} is not back")


async def kill_agent(inside: Inside) -> None:
    await back(inside, "a", AGENT, inside.kill("a", AGENT))


async def kill_controller(inside: Inside) -> None:
    await back(inside, CONTROLLER, CONTROLLER, inside.kill(CONTROLLER, CONTROLLER))


async def kill_helper_and_workload_host(inside: Inside) -> None:
    killed = {process: inside.kill("a", process) for process in (HELPER, WORKLOAD)}
    for process, pid in killed.items():
        await back(inside, "a", process, pid)


async def stop_agent_and_controller(inside: Inside) -> None:
    """First both, then the agent alone: its controller notices, and it must not matter."""
    with inside.stopped("a", AGENT):
        with inside.stopped(CONTROLLER, CONTROLLER):
            await SystemClock().sleep(STOP_S)
        await SystemClock().sleep(STOP_S)
    await eventually(inside.cluster.all_ready, "not all nodes are Ready")


async def restart_controller(inside: Inside) -> None:
    """Its container, where it has one; else the orderly end of its process."""
    before = inside.pid(CONTROLLER, CONTROLLER)
    if inside.is_local:
        inside.kill(CONTROLLER, CONTROLLER, signal.SIGTERM)
    else:
        docker("restart", "--time", "2", generate.container_name(inside.cluster.spec.name, CONTROLLER))
    await back(inside, CONTROLLER, CONTROLLER, before)


@pytest.mark.parametrize(
    "disturb",
    [kill_agent, kill_controller, kill_helper_and_workload_host, stop_agent_and_controller, restart_controller],
)
@pytest.mark.timeout(120 + 3 * STOP_S)
async def test_no_packet_of_pods_that_talk_is_lost(
    cluster: Cluster, trio: dict[str, str], disturb: Callable[[Inside], Awaitable[None]]
) -> None:
    inside = Inside(cluster)
    async with talking(inside, trio) as mesh:
        await disturb(inside)
        assert await mesh.losses() == []


async def test_a_restarted_agent_writes_nothing_to_a_kernel_that_agrees(
    cluster: Cluster, client: ControlClient, trio: dict[str, str]
) -> None:
    """Seen by `ip monitor` and `nft monitor` in the node, and in a pod of it. Neighbours that age on the underlay are the kernel's own."""
    inside = Inside(cluster)

    await SystemClock().sleep(CARRIER_NEWS_S)
    async with contextlib.AsyncExitStack() as stack:

        async def watch(command: list[str]) -> Callable[[], Awaitable[list[str]]]:
            return await stack.enter_async_context(listening(command))

        links = await watch(inside.node("a", "ip", "monitor", "all"))
        rules = await watch(inside.node("a", "nft", "monitor"))
        insides = await watch(await inside.pod("a1", "ip", "monitor", "all"))
        before = await versions(client)
        await kill_agent(inside)
        await kill_controller(inside)

        async def applied() -> bool:
            """A whole reading, and the plan of the controller's new epoch, are behind it."""
            status = await client.status()
            return all(node.revision_applied >= status.revision for node in status.nodes if node.name == "a")

        await eventually(applied, "the agent has not applied the newest revision")
        ours = re.compile(r"pw-|podwire|proto 77|\bv[0-9a-f]{12}\b")
        assert [line for line in await links() if ours.search(line)] == []
        assert await rules() == []
        assert [line for line in await insides() if "NEIGH" not in line] == []
        assert await versions(client) == before


async def versions(client: ControlClient) -> dict[str, str]:
    """The resourceVersion of every pod: the same one, nothing was written about it."""
    documents = (await client.list("pods", namespace="default")).documents
    return {document["metadata"]["name"]: document["metadata"]["resourceVersion"] for document in documents}
