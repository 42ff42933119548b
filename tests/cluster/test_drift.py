"""What goes missing behind the agent's back is put back within ten seconds, and said; what is not podwire's stays as it is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from podwire.api.v1 import node_agent_pb2 as agent
from podwire.api.v1.control_pb2 import PairProbe
from podwire.client import ControlClient
from podwire.model import names
from podwire.seams import SystemClock
from tests.cluster import pods
from tests.cluster.harness import Cluster, eventually
from tests.cluster.inside import Inside

pytestmark = pytest.mark.cluster

REPAIRED_WITHIN_S = 10.0
FOREIGN = """
ip link add foreign-bridge type bridge
ip link set foreign-bridge addrgenmode none
ip address add 192.0.2.1/24 dev foreign-bridge
ip link set foreign-bridge up
ip route add 203.0.113.0/24 via 192.0.2.2 dev foreign-bridge proto 42
bridge fdb add 02:00:00:00:00:09 dev foreign-bridge self
nft add table inet foreign
nft add chain inet foreign kept
nft add rule inet foreign kept counter
"""
UNMOUNT = "import ctypes, sys; sys.exit(ctypes.CDLL(None).umount2(sys.argv[1].encode(), 2))"
NO_MORE_FOREIGN = "nft delete table inet foreign; ip link delete foreign-bridge"
LOOK_AT_FOREIGN = """
ip -o link show dev foreign-bridge | sed 's/ state [A-Z]*//'
ip -o -4 address show dev foreign-bridge
ip route show proto 42 | sed 's/ linkdown//'
bridge fdb show dev foreign-bridge
nft -s list table inet foreign
"""


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[ControlClient]:
    async with cluster.client() as connected:
        yield connected


async def link_of(inside: Inside, client: ControlClient, pod: str) -> str:
    uid = (await client.get("pods", pod, namespace="default"))["metadata"]["uid"]
    return names.pod_link(inside.cluster.spec.name, uid)


Damage = Callable[[Inside, ControlClient], Awaitable[tuple[str, ...]]]


async def no_veth(inside: Inside, client: ControlClient) -> tuple[str, ...]:
    return "ip", "link", "delete", await link_of(inside, client, "a1")


async def veth_down(inside: Inside, client: ControlClient) -> tuple[str, ...]:
    return "ip", "link", "set", await link_of(inside, client, "a1"), "down"


async def no_master(inside: Inside, client: ControlClient) -> tuple[str, ...]:
    return "ip", "link", "set", await link_of(inside, client, "a1"), "nomaster"


async def no_bridge(inside: Inside, client: ControlClient) -> tuple[str, ...]:
    return "ip", "link", "delete", names.BRIDGE


async def no_tunnel(inside: Inside, client: ControlClient) -> tuple[str, ...]:
    return "ip", "link", "delete", names.VXLAN


async def no_gateway_address(inside: Inside, client: ControlClient) -> tuple[str, ...]:
    return "ip", "address", "flush", "dev", names.BRIDGE


async def no_fdb_entry(inside: Inside, client: ControlClient) -> tuple[str, ...]:
    return "bridge", "fdb", "del", names.vtep_mac(inside.cluster.spec.name, "b"), "dev", names.VXLAN


async def no_routes(inside: Inside, client: ControlClient) -> tuple[str, ...]:
    return "ip", "route", "flush", "proto", str(names.ROUTE_PROTOCOL)


async def no_tunnel_neighbours(inside: Inside, client: ControlClient) -> tuple[str, ...]:
    return "ip", "neighbour", "flush", "nud", "permanent", "dev", names.VXLAN


async def no_guard_table(inside: Inside, client: ControlClient) -> tuple[str, ...]:
    return "nft", "delete", "table", "bridge", names.NFT_TABLE


async def no_masquerade_table(inside: Inside, client: ControlClient) -> tuple[str, ...]:
    return "nft", "delete", "table", "ip", names.NFT_TABLE


async def no_rules(inside: Inside, client: ControlClient) -> tuple[str, ...]:
    return "nft", "flush", "table", "bridge", names.NFT_TABLE


async def no_pod_in_the_guard(inside: Inside, client: ControlClient) -> tuple[str, ...]:
    return "nft", "flush", "set", "bridge", names.NFT_TABLE, "pods4"


async def no_forwarding(inside: Inside, client: ControlClient) -> tuple[str, ...]:
    return "sysctl", "-qw", "net.ipv4.ip_forward=0"


async def no_pin(inside: Inside, client: ControlClient) -> tuple[str, ...]:
    _, pin = await inside.pin("a1")
    return inside.python, "-c", UNMOUNT, pin  # umount(8) wants the /proc of a PID namespace that nobody entered


async def no_address_in_the_pod(inside: Inside, client: ControlClient) -> tuple[str, ...]:
    _, pin = await inside.pin("a1")
    return "nsenter", f"--net={pin}", "ip", "address", "flush", "dev", "eth0"


DAMAGES: list[Damage] = [
    no_veth,
    veth_down,
    no_master,
    no_bridge,
    no_tunnel,
    no_gateway_address,
    no_fdb_entry,
    no_routes,
    no_tunnel_neighbours,
    no_guard_table,
    no_masquerade_table,
    no_rules,
    no_pod_in_the_guard,
    no_forwarding,
    no_pin,
    no_address_in_the_pod,
]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_what_goes_missing_comes_back_and_is_said(local_cluster: Cluster, damage: Damage) -> None:
    inside = Inside(local_cluster)
    async with local_cluster.client() as client, pods.applied(client, *pods.TRIO) as addresses:
        await mended(inside, client, damage)
        assert await talk(client, addresses) == []


async def test_much_goes_missing_at_once_and_what_is_not_podwires_stays(
    cluster: Cluster, client: ControlClient
) -> None:
    """Foreign objects are neither taken for ours nor hurt by repairs."""
    inside = Inside(cluster)
    async with pods.applied(client, *pods.TRIO) as addresses:
        inside.run("a", "sh", "-ec", FOREIGN)
        try:
            foreign = inside.run("a", "sh", "-ec", LOOK_AT_FOREIGN)
            await mended(inside, client, no_veth, no_routes, no_tunnel, no_bridge, no_guard_table, no_masquerade_table)
            assert inside.run("a", "sh", "-ec", LOOK_AT_FOREIGN) == foreign
        finally:
            inside.run("a", "sh", "-c", NO_MORE_FOREIGN)
        assert await talk(client, addresses) == []


async def mended(inside: Inside, client: ControlClient, *damages: Damage) -> None:
    """Does damage to node a, and waits until that is reported and all is as it was."""
    said = await repairs(client)
    _, pin = await inside.pin("a1")
    was = holdings(inside, pin)
    commands = [await damage(inside, client) for damage in damages]
    for command in commands:
        inside.run("a", *command)

    async def reported() -> bool:
        return await repairs(client) > said

    clock = SystemClock()
    deadline = clock.monotonic() + REPAIRED_WITHIN_S
    while wrong := differences(was, holdings(inside, (await inside.pin("a1"))[1])):
        assert clock.monotonic() < deadline, f"not repaired after {REPAIRED_WITHIN_S:.0f} s: {wrong}"
        await clock.sleep(0.1)
    await eventually(reported, "the repair was not reported", within_s=5)


async def talk(client: ControlClient, addresses: dict[str, str]) -> list[str]:
    """Pairs of pods that do not reach each other, and why."""
    pairs = [(source, target) for source in addresses for target in addresses if source != target]
    probes = [
        PairProbe(id=f"{source} to {target}", namespace="default", pod=source, address=addresses[target])
        for source, target in pairs
    ]
    for probe in probes:
        probe.kind, probe.port = agent.PROBE_KIND_TCP, pods.HTTP_PORT
    return [f"{result.id}: {result.error}" for result in await client.probe(probes) if not result.ok]


async def repairs(client: ControlClient) -> int:
    """How many repairs node a's events tell of."""
    events = (await client.list("events")).documents
    return sum(
        event.get("count", 1)
        for event in events
        if event["reason"] == "Repaired" and event["involvedObject"]["name"] == "a"
    )


LOOKS = {
    "links": "ip -j -d link show",
    "addresses": "ip -j address show",
    "routes": "ip -j route show table all",
    "neighbours": "ip -j neighbour show nud permanent",
    "forwarding entries": "bridge -j fdb show",
    "rules of family bridge": f"nft -j -s list table bridge {names.NFT_TABLE}",
    "rules of family ip": f"nft -j -s list table ip {names.NFT_TABLE}",
    "forwarding": "sysctl -n net.ipv4.ip_forward",
    "pin": "stat -f -c '\"%T\"' {pin}",
    "links in the pod": "nsenter --net={pin} ip -j address show",
    "routes in the pod": "nsenter --net={pin} ip -j route show",
    "neighbours in the pod": "nsenter --net={pin} ip -j neighbour show nud permanent",
}
# What comes anew with an object, or counts, or is not podwire's to say.
_PASSING = {
    "handle",
    "ifindex",
    "link_index",
    "link_netnsid",
    "operstate",
    "linkinfo",
    "flags",
    "state",
    "bytes",
    "packets",
}


def holdings(inside: Inside, pin: str) -> dict[str, list[object]]:
    """Everything of podwire's on node a and in the pod behind a pin, as iproute2 and nft show it."""
    script = "; ".join(f"{look.replace('{pin}', pin)} 2>/dev/null || true; echo; echo ---" for look in LOOKS.values())
    parts = inside.run("a", "sh", "-c", script).split("---\n")
    found = {name: _plain(json.loads(part.strip() or "null")) for name, part in zip(LOOKS, parts, strict=False)}
    return {name: value if isinstance(value, list) else [value] for name, value in found.items()}


def differences(was: dict[str, list[object]], now: dict[str, list[object]]) -> dict[str, dict[str, list[object]]]:
    """What is not as it was, by name of the look."""
    return {
        name: {
            "gone": [each for each in was[name] if each not in now[name]],
            "new": [each for each in now[name] if each not in was[name]],
        }
        for name in was
        if was[name] != now[name]
    }


def _plain(value: object) -> object:
    """Without passing numbers, and without any order."""
    if isinstance(value, dict):
        kept = {key: _plain(each) for key, each in value.items() if key not in _PASSING}
        if "ifalias" in kept:
            kept["ifalias"] = str(kept["ifalias"]).rpartition(" ")[
                0
            ]  # a sandbox without its pin is made anew, in another slot
        return kept
    if isinstance(value, list):
        return sorted((_plain(each) for each in value), key=json.dumps)
    return value
