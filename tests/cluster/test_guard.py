"""A pod that may do anything with its own network cannot speak for another: not by ARP, not by a copied MAC. Without the guard it can."""

from __future__ import annotations

from pathlib import Path

import pytest

from podwire.api.v1 import node_agent_pb2 as agent
from podwire.client import ControlClient
from podwire.drivers.base import UpOptions
from tests.cluster import pods
from tests.cluster.harness import Cluster, cluster_spec, eventually, no_progress, running
from tests.cluster.inside import Inside, output
from tests.cluster.mesh import talking

pytestmark = pytest.mark.cluster

SOURCE = (Path(__file__).parent / "attacker.py").read_text()
EVIL = pods.pod("evil", "a", pods.command("shell", "sleep", "infinity", add=("NET_ADMIN", "NET_RAW")))
VICTIMS = (pods.pod("a1", "a"), pods.pod("a2", "a"))


async def overheard(client: ControlClient, attack: str, addresses: dict[str, str]) -> int:
    """How many packets from a1 to a2 the hostile pod got to see during its attack."""
    argv = ["python3", "-c", SOURCE, attack, addresses["a1"], addresses["a2"]]
    start = agent.ExecStart(namespace="default", pod="evil", container="shell", argv=argv)
    answers = [answer async for answer in client.exec(start)]
    assert answers[-1].exit.code == 0, b"".join(answer.stderr for answer in answers).decode()
    return int(b"".join(answer.stdout for answer in answers))


@pytest.mark.parametrize("attack", ["arp", "clone"])
async def test_with_the_guard_an_attack_does_nothing(cluster: Cluster, attack: str) -> None:
    """Not one packet goes astray while it lasts."""
    async with cluster.client() as client, pods.applied(client, *VICTIMS, EVIL) as addresses:
        victims = {name: addresses[name] for name in ("a1", "a2")}
        async with talking(Inside(cluster), victims) as mesh:
            assert await overheard(client, attack, addresses) == 0
            assert await mesh.losses() == []


async def test_without_the_guard_it_works_and_the_guard_can_be_had_back(own_state: Path) -> None:
    """The Cluster document is changed under pods that run."""
    spec = cluster_spec("test-guard", [{"name": "a"}])
    async with (
        running(spec, local=True) as cluster,
        cluster.client() as client,
        pods.applied(client, *VICTIMS, EVIL) as addresses,
    ):
        victims = {name: addresses[name] for name in ("a1", "a2")}

        async def attacks() -> dict[str, bool]:
            """Which of them let the hostile pod see packets of others."""
            async with talking(Inside(cluster), victims):
                return {attack: await overheard(client, attack, addresses) > 0 for attack in ("listen", "arp", "clone")}

        async def guarded(*, on: bool) -> None:
            changed = cluster_spec("test-guard", [{"name": "a"}], network={"guard": on})
            await cluster.driver.up(changed, UpOptions(), no_progress)

            async def applied() -> bool:
                facts = await client.inspect("a")
                return any(fact.kind == "guard" for fact in facts) == on

            await eventually(applied, f"the guard is not {'on' if on else 'off'}", within_s=20)

        await guarded(on=False)
        assert await attacks() == {"listen": False, "arp": True, "clone": True}
        await guarded(on=True)
        for name in victims:  # believe what they were told for as long as ARP lets them
            await output(await Inside(cluster).pod(name, "ip", "neighbour", "flush", "dev", "eth0"))
        assert await attacks() == {"listen": False, "arp": False, "clone": False}
