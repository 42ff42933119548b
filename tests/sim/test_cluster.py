"""A controller and three agents in one process: what a cluster promises, on a fake kernel in virtual time."""

from __future__ import annotations

import pytest

from tests.sim.world import World, simulate


def test_pods_on_all_nodes_reach_each_other() -> None:
    """Every pod reaches every other and is seen as itself."""

    async def scenario(world: World) -> None:
        for number in range(9):
            await world.create(f"p{number}")
        await world.settle()
        await world.check()
        nodes = {pod["spec"]["nodeName"] for pod in (await world.pods()).values()}
        assert nodes == {"a", "b", "c"}

    simulate(1, scenario)


def test_a_restart_of_an_agent_writes_nothing() -> None:
    """A new agent that finds the kernel right leaves it alone."""

    async def scenario(world: World) -> None:
        for number in range(6):
            await world.create(f"p{number}")
        await world.settle()
        await world.clock.sleep(30)
        before = {name: node.kernel.writes for name, node in world.nodes.items()}
        for name in world.names:
            await world.crash_agent(name)
            world.start_agent(name)
        await world.settle()
        await world.clock.sleep(30)
        assert {name: node.kernel.writes for name, node in world.nodes.items()} == before

    simulate(2, scenario)


def test_a_restart_of_the_controller_writes_nothing() -> None:
    async def scenario(world: World) -> None:
        for number in range(6):
            await world.create(f"p{number}")
        await world.settle()
        await world.clock.sleep(30)
        before = {name: node.kernel.writes for name, node in world.nodes.items()}
        await world.crash_controller()
        await world.clock.sleep(5)
        await world.settle()
        await world.clock.sleep(30)
        assert {name: node.kernel.writes for name, node in world.nodes.items()} == before

    simulate(3, scenario)


def test_a_rebooted_node_gets_its_pods_back_with_their_addresses() -> None:
    """Within ten seconds."""

    async def scenario(world: World) -> None:
        for number in range(6):
            await world.create(f"p{number}")
        await world.settle()
        before = {name: pod["status"]["podIP"] for name, pod in (await world.pods()).items()}
        started = world.clock.monotonic()
        await world.reboot("b")
        await world.settle()
        assert world.clock.monotonic() - started < 10
        assert {name: pod["status"]["podIP"] for name, pod in (await world.pods()).items()} == before
        await world.check()

    simulate(4, scenario)


def test_a_wiped_store_is_rebuilt_from_the_agents() -> None:
    """The agents keep their pods, nobody's address changes, nothing is written to a kernel."""

    async def scenario(world: World) -> None:
        for number in range(6):
            await world.create(f"p{number}")
        await world.settle()
        await world.clock.sleep(10)
        before = {name: (pod["metadata"]["uid"], pod["status"]["podIP"]) for name, pod in (await world.pods()).items()}
        inodes = {uid: box.netns_inode for node in world.nodes.values() for uid, box in node.running.items()}
        await world.crash_controller()
        world.wipe_store()
        await world.settle()
        after = {name: (pod["metadata"]["uid"], pod["status"]["podIP"]) for name, pod in (await world.pods()).items()}
        assert after == before
        assert {uid: box.netns_inode for node in world.nodes.values() for uid, box in node.running.items()} == inodes
        await world.check()

    simulate(5, scenario)


def test_deleted_pods_leave_nothing() -> None:
    async def scenario(world: World) -> None:
        for number in range(9):
            await world.create(f"p{number}")
        await world.settle()
        for number in range(0, 9, 2):
            await world.delete(f"p{number}")
        await world.settle()
        assert sorted(await world.pods()) == ["p1", "p3", "p5", "p7"]
        await world.check()

    simulate(6, scenario)


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("bridge", ""),
        ("vxlan", ""),
        ("nft table bridge", ""),
        ("nft table ip", ""),
        ("peer route", "b"),
        ("peer entry", "b"),
        ("peer neighbour", "b"),
        ("sysctl", "net/ipv4/ip_forward"),
    ],
)
def test_what_others_delete_is_mended_within_ten_seconds(what: str, name: str) -> None:
    """Also when the kernel says nothing about it."""

    async def scenario(world: World) -> None:
        for number in range(6):
            await world.create(f"p{number}")
        await world.settle()
        node = world.nodes["a"]
        argument = name
        if what.startswith("peer") and node.agent is not None and node.agent.reading is not None:
            peer = next(peer for peer in node.agent.reading.network.peers if peer.node == name)
            argument = {
                "peer route": str(peer.pod_cidrs[0]),
                "peer entry": peer.vtep_mac,
                "peer neighbour": str(peer.pod_cidrs[0].network_address),
            }[what]
        node.kernel.lose(what, argument)
        await world.clock.sleep(10)
        await world.settle()
        await world.check()

    simulate(7, scenario)


@pytest.mark.parametrize("seed", range(20))
def test_random_schedules_of_faults(seed: int) -> None:
    """Forty random deeds of users and of bad luck; at every instant no address is double, and in the end everything agrees."""

    async def scenario(world: World) -> None:
        number = 0
        for _ in range(40):
            choice = world.rng.uniform(0, 1)
            node = world.names[int(world.rng.uniform(0, len(world.names)))]
            if choice < 0.35 and world.controller is not None:
                await world.create(f"p{number}")
                number += 1
            elif choice < 0.55 and world.controller is not None:
                await world.delete(f"p{int(world.rng.uniform(0, max(number, 1)))}")
            elif choice < 0.65:
                await world.crash_agent(node)
                world.start_agent(node)
            elif choice < 0.72:
                await world.crash_controller()
            elif choice < 0.80 and world.controller is None:
                await world.start_controller()
            elif choice < 0.86:
                await world.reboot(node)
            elif choice < 0.93:
                world.cut.add(node)
            else:
                world.cut.clear()
            await world.clock.sleep(world.rng.uniform(0, 2))
            world.check_addresses()
        await world.settle()
        await world.check()

    simulate(1000 + seed, scenario)
