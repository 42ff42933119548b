"""What the kernel holds of ours, as facts that a person or a test can read.

In: the agent's last reading. Out: `Fact` messages, ordered: the node's own objects, then peers, then pods. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nodeagent.agent import Reading
from podwire.api.v1 import node_agent_pb2 as api
from podwire.model import names

NODE = "node"


def facts(reading: Reading, owners: Mapping[str, str]) -> list[api.Fact]:
    """Everything of ours in one reading; `owners` says whose sandbox is whose."""
    return [*_node(reading), *_peers(reading), *_pods(reading), *_sandboxes(reading, owners)]


def _fact(kind: str, name: str, owner: str, **attributes: object) -> api.Fact:
    texts = {
        key: str(value).lower() if isinstance(value, bool) else str(value)
        for key, value in attributes.items()
        if value is not None
    }
    return api.Fact(kind=kind, name=name, owner=owner, attributes=texts)


def _node(reading: Reading) -> Iterable[api.Fact]:
    network = reading.network
    gateways = ", ".join(f"{cidr.network_address + 1}/{cidr.prefixlen}" for cidr in network.pod_cidrs)
    yield _fact("bridge", names.BRIDGE, NODE, address=gateways, mac=network.bridge_mac, mtu=network.pod_mtu)
    yield _fact(
        "vxlan",
        names.VXLAN,
        NODE,
        vni=network.vni,
        port=network.vxlan_port,
        local=network.underlay,
        mac=network.vtep_mac,
        mtu=network.pod_mtu,
    )
    for missing in reading.observed.missing:
        yield _fact("missing", missing, NODE)


def _peers(reading: Reading) -> Iterable[api.Fact]:
    node_of = {peer.vtep_mac: peer.node for peer in reading.network.peers}
    for peer in reading.observed.peers:
        node = node_of.get(peer.vtep_mac)
        if peer.underlay is not None:
            yield _fact("fdb", peer.vtep_mac, NODE, destination=peer.underlay, device=names.VXLAN, peer=node)
        for address in sorted(map(str, peer.neighbours)):
            yield _fact("neighbour", address, NODE, mac=peer.vtep_mac, device=names.VXLAN, peer=node)
        for route in sorted(map(str, peer.routes)):
            yield _fact("route", route, NODE, device=names.VXLAN, protocol=names.ROUTE_PROTOCOL, peer=node)


def _pods(reading: Reading) -> Iterable[api.Fact]:
    for link in reading.observed.pods:
        yield _fact(
            "link",
            link.name,
            link.uid,
            index=link.index,
            up=link.up,
            bridge=names.BRIDGE if link.on_bridge else "none",
            mac=link.host_mac,
            mtu=link.mtu,
        )
        for address in sorted(map(str, link.guarded)):
            yield _fact("guard", address, link.uid, port=link.name)


def _sandboxes(reading: Reading, owners: Mapping[str, str]) -> Iterable[api.Fact]:
    for sandbox in reading.sandboxes.values():
        end = reading.ends.get(sandbox.slot)
        addresses = ", ".join(sorted(map(str, end.addresses))) if end else None
        owner = owners.get(sandbox.slot) or ("warm" if sandbox.slot in owners else "unknown")
        yield _fact(
            "sandbox", sandbox.slot, owner, pid=sandbox.pid, netns=sandbox.netns_inode, pin=sandbox.pin, eth0=addresses
        )
