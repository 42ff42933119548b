"""Where a packet goes in fake kernels: the walk a real one takes through veth, guard, bridge, routes and tunnel.

In: a sandbox on a `FakeNode` and an address. Out: an `Arrival` that says where the packet came out and whom the receiver sees as its
sender, or at which step it was lost and why. Only state that verbs can make or `lose` can damage decides.
"""

from __future__ import annotations

from dataclasses import dataclass

from nodeagent.kernel.base import Sandbox
from nodeagent.kernel.fake_state import FakeNode, FakePort
from podwire.model.addresses import IPAddress, IPNetwork, vtep_address

OUTSIDE = "outside"  # past the underlay's router


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a packet's way ended."""

    arrived: bool
    place: str  # slot of a sandbox, "node" and its underlay address, or OUTSIDE; where it was lost otherwise
    seen: IPAddress | None  # the sender as the receiver sees it
    reason: str = ""


def arrives(
    kernel: FakeNode,
    source: Sandbox,
    destination: IPAddress,
    *,
    sender: IPAddress | None = None,
    sender_mac: str = "",
) -> Arrival:
    """Follows one packet from a sandbox; `sender` and `sender_mac` forge."""
    end = kernel.ends.get(source.slot)
    if end is None or end.inode != source.netns_inode:
        return _lost(source.slot, "there is no such namespace")
    own = next((each.ip for each in end.addresses if each.version == destination.version), None)
    if own == destination:
        return Arrival(end.lo_up, source.slot, own, "" if end.lo_up else "lo is down")
    saddr = sender or own
    if end.mac is None or not end.up or own is None or saddr is None:
        return _lost(source.slot, "eth0 is not there, down, or without an address")
    port = next((port for port in kernel.ports.values() if port.slot == source.slot), None)
    if port is None or not port.up or not port.on_bridge or kernel.bridge is None:
        return _lost("host end", "it is not there, down, or not on the bridge")
    reason = _guard(kernel, port, saddr, sender_mac or end.mac)
    if reason:
        return _lost("guard", reason)
    if any(destination in each.network for each in end.addresses):
        gateways = {each.ip for each in kernel.bridge.addresses}
        if destination in gateways:
            return Arrival(True, _node(kernel), saddr)
        return _to_pod(kernel, destination, saddr, routed=False)
    gateway = next((each for each in end.gateways if each.version == destination.version), None)
    if gateway is None:
        return _lost(source.slot, "no route")
    if end.neighbours.get(gateway, kernel.bridge.mac) != kernel.bridge.mac:
        return _lost(source.slot, "the gateway's neighbour entry names another MAC")
    if gateway not in {each.ip for each in kernel.bridge.addresses}:
        return _lost("bridge", "the gateway's address is not there")
    return _route(kernel, destination, saddr)


def _guard(kernel: FakeNode, port: FakePort, saddr: IPAddress, mac: str) -> str:
    if "bridge" not in kernel.tables:
        return ""
    if mac != port.link.pod_mac:
        return "not the pod's MAC"
    return "" if saddr in port.guarded else "not an address of the pod"


def _forwards(kernel: FakeNode, version: int) -> bool:
    name = "net/ipv4/ip_forward" if version == 4 else "net/ipv6/conf/all/forwarding"
    return kernel.sysctls.get(name) == "1"


def _route(kernel: FakeNode, destination: IPAddress, saddr: IPAddress) -> Arrival:
    """The node's routing of a packet that came over its bridge."""
    bridge, tunnel, fabric = kernel.bridge, kernel.tunnel, kernel.fabric
    underlay = kernel.underlay_address
    if bridge is None or not any(saddr in each.network for each in bridge.addresses):
        return _lost("bridge", "the source does not lie behind the bridge (reverse path)")
    if destination == underlay or (tunnel and destination in {each.ip for each in tunnel.addresses}):
        return Arrival(True, _node(kernel), saddr)
    if not _forwards(kernel, destination.version):
        return _lost(_node(kernel), "forwarding is off")
    if tunnel is not None:
        cidr = next(
            (each for each in tunnel.routes if each.version == destination.version and destination in each), None
        )
        if cidr is not None:
            remote = tunnel.entries.get(tunnel.neighbours.get(vtep_address(cidr), ""))
            if remote is None:
                return _lost("pw-vxlan", "no neighbour or forwarding entry for the peer")
            return _tunnel(kernel, remote, tunnel.neighbours[vtep_address(cidr)], destination, saddr)
    if destination in fabric.nodes:
        return Arrival(fabric.reaches(underlay, destination), _node(fabric.nodes[destination]), saddr)
    if any(destination in cidr for each in fabric.nodes.values() for cidr in _cidrs(each)):
        return _lost(_node(kernel), "no route to that pod CIDR")
    family = "ip" if destination.version == 4 else "ip6"
    return Arrival(True, OUTSIDE, underlay if family in kernel.tables else saddr)


def _cidrs(kernel: FakeNode) -> list[IPNetwork]:
    return [each.network for each in kernel.bridge.addresses] if kernel.bridge else []


def _tunnel(kernel: FakeNode, remote: IPAddress, mac: str, destination: IPAddress, saddr: IPAddress) -> Arrival:
    here = kernel.tunnel
    if here is None or not kernel.fabric.reaches(here.local, remote):
        return _lost("underlay", f"{remote} cannot be reached")
    other = kernel.fabric.nodes[remote]
    there = other.tunnel
    if there is None or (there.vni, there.port, there.local) != (here.vni, here.port, remote):
        return _lost(_node(other), "no tunnel end for this network")
    family = "ip" if remote.version == 4 else "ip6"
    if family in other.tables and here.local.packed not in other.sets.get(f"{family} peers", set()):
        return _lost(_node(other), "not from a member of the mesh")
    if mac != there.mac:
        return _lost(_node(other), "for another MAC than the tunnel end's")
    if saddr not in kernel.fabric.nodes and not any(saddr in cidr for cidr in there.routes):
        return _lost(_node(other), "the source does not lie behind the tunnel (reverse path)")
    if destination in {each.ip for each in there.addresses}:
        return Arrival(True, _node(other), saddr)
    if not _forwards(other, destination.version):
        return _lost(_node(other), "forwarding is off")
    return _to_pod(other, destination, saddr, routed=True)


def _to_pod(kernel: FakeNode, destination: IPAddress, saddr: IPAddress, *, routed: bool) -> Arrival:
    """Over the bridge to a pod: by a neighbour entry, or by asking, which the pod must be able to answer."""
    if kernel.bridge is None:
        return _lost(_node(kernel), "no bridge")
    if routed and destination in {each.ip for each in kernel.bridge.addresses}:
        return Arrival(True, _node(kernel), saddr)
    for port in kernel.ports.values():
        end = kernel.ends.get(port.slot)
        if end is None or destination not in {each.ip for each in end.addresses}:
            continue
        if not (end.up and port.up and port.on_bridge):
            return _lost(port.slot, "its link is down or off the bridge")
        known = routed and kernel.bridge.neighbours.get(destination) == end.mac
        if not known and _guard(kernel, port, destination, end.mac or ""):
            return _lost(port.slot, "it cannot answer ARP through its guard")
        return Arrival(True, port.slot, saddr, "" if end.gateways else "it has no way to answer")
    return _lost("bridge", f"nobody has {destination}")


def _lost(place: str, reason: str) -> Arrival:
    return Arrival(False, place, None, reason)


def _node(kernel: FakeNode) -> str:
    return f"node {kernel.underlay_address}"
