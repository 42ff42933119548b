"""What a node holds against what it should hold: pure comparison.

In: a `NodeNetwork` and a `Reading` of the kernel. Out: `Observed` for the agent's diff, and `Repair` values that `linux.py` carries out
one by one. A repair is proposed only once its prerequisites exist (no address for a bridge that is not there), so carrying out and
reading again converges in a few rounds, and what is right is never written.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from nodeagent.kernel import guard, rtnl, rtnl_read
from nodeagent.kernel.base import NodeNetwork, Observed, ObservedPeer, ObservedPodLink
from nodeagent.kernel.netlink import attributes
from nodeagent.kernel.nft import SetId, TableReading
from podwire.model.addresses import IPAddress, IPInterface, IPNetwork, gateway_interface, vtep_address
from podwire.model.names import BRIDGE, NFT_TABLE, POD_LINK_PREFIX, ROUTE_PROTOCOL, VXLAN, pod_mac


@dataclass(frozen=True, slots=True)
class Reading:
    """What one look at the kernel found."""

    links: Mapping[str, rtnl_read.Link]
    addresses: tuple[rtnl_read.Address, ...]
    routes: tuple[rtnl_read.Route, ...]
    neighbours: tuple[rtnl_read.Neighbour, ...]
    ports: tuple[rtnl_read.Neighbour, ...]  # forwarding entries of the bridge
    tunnels: tuple[rtnl_read.Neighbour, ...]  # forwarding entries of the tunnel end
    tables: Mapping[str, TableReading | None]  # by family
    elements: Mapping[SetId, frozenset[bytes]]  # of the sets that are there
    sysctls: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Repair:
    """One node-level object that is missing or wrong, and what makes it right."""

    name: str  # the object, as `Observed.missing` names it
    messages: tuple[bytes, ...] = ()
    commands: str = ""
    sysctl: tuple[str, str] | None = None
    add: Mapping[SetId, frozenset[bytes]] = field(default_factory=dict)
    delete: Mapping[SetId, frozenset[bytes]] = field(default_factory=dict)


def repairs(network: NodeNetwork, reading: Reading) -> list[Repair]:
    """What to do now, fences first, forwarding last."""
    return [*_nft(network, reading), *_bridge(network, reading), *_vxlan(network, reading), *_sysctls(network, reading)]


def wanted_sysctls(network: NodeNetwork) -> dict[str, str]:
    """Settings that decide whether packets pass; set, not inherited, because every distribution has other defaults."""
    links = (BRIDGE, VXLAN)
    wanted = {
        "net/ipv4/conf/all/rp_filter": "0",  # the highest of all and the link's own holds: leave other links alone
        # A pod's packet to another node comes over the underlay and is answered through the tunnel: loose on both.
        f"net/ipv4/conf/{network.underlay_link}/rp_filter": "2",
        f"net/ipv4/conf/{VXLAN}/rp_filter": "2",
        f"net/ipv4/conf/{BRIDGE}/rp_filter": "1",  # and here a source must lie behind the link it came from
        "net/ipv4/conf/all/accept_redirects": "0",
        "net/ipv4/conf/all/send_redirects": "0",
        "net/ipv4/conf/all/route_localnet": "0",
        "net/bridge/bridge-nf-call-iptables": "0",  # this or the bridge's own attribute suffices to turn it on
        "net/bridge/bridge-nf-call-ip6tables": "0",
        "net/bridge/bridge-nf-call-arptables": "0",
        "net/ipv6/conf/default/accept_ra": "0",
        "net/ipv6/conf/all/accept_redirects": "0",
        f"net/ipv6/conf/{network.underlay_link}/accept_ra": "0",
        f"net/ipv6/conf/{network.underlay_link}/accept_redirects": "0",
    }
    for link in links:
        wanted |= {
            f"net/ipv4/conf/{link}/accept_redirects": "0",
            f"net/ipv4/conf/{link}/send_redirects": "0",
            f"net/ipv4/conf/{link}/route_localnet": "0",
            f"net/ipv6/conf/{link}/accept_ra": "0",
            f"net/ipv6/conf/{link}/accept_redirects": "0",
        }
    if _has_ipv6(network):
        wanted |= {f"net/ipv6/conf/{link}/disable_ipv6": "0" for link in links}
        wanted["net/ipv6/conf/all/forwarding"] = "1"
    wanted["net/ipv4/ip_forward"] = "1"
    return wanted


def _has_ipv6(network: NodeNetwork) -> bool:
    return any(cidr.version == 6 for cidr in network.pod_cidrs)


def _nft(network: NodeNetwork, reading: Reading) -> Iterator[Repair]:
    node = guard.node_elements(network)
    tables = {table.family: table for table in guard.tables(network)}
    for family, found in reading.tables.items():
        name = f"nft table {family} {NFT_TABLE}"
        table = tables.get(family)
        if table is None:
            if found is not None:
                yield Repair(name, commands=f"delete table {family} {NFT_TABLE}\n")
            continue
        held = {target: keys for target, keys in reading.elements.items() if family == target.family == "bridge"}
        held |= {target: keys for target, keys in node.items() if target.family == family}
        if not table.right(found):
            texts = {target.name: [guard.element_text(target, key) for key in keys] for target, keys in held.items()}
            yield Repair(name, commands=table.commands(found, texts))
            if found is None or found.comment != table.digest or found.dormant:
                continue
        for target, keys in held.items():
            there = reading.elements.get(target, frozenset())
            if family != "bridge" and keys != there:
                add, delete = keys - there, there - keys
                yield Repair(
                    f"nft set {family} {NFT_TABLE} {target.name}",
                    add={target: add} if add else {},
                    delete={target: delete} if delete else {},
                )


def _bridge(network: NodeNetwork, reading: Reading) -> Iterator[Repair]:
    link = reading.links.get(BRIDGE)
    if link is None or link.kind != "bridge":
        removal = (rtnl.delete_link(link.index),) if link else ()
        creation = rtnl.create_bridge(BRIDGE, network.bridge_mac, network.pod_mtu)
        yield Repair("bridge", (*removal, creation))
        return
    messages = list(_link_basics(link, network.bridge_mac, network.pod_mtu))
    options = attributes(link.data)
    if any(options.get(kind, b"\0").strip(b"\0") for kind in rtnl.BRIDGE_OPTIONS):
        messages.append(rtnl.set_bridge_options(link.index))
    if not link.up:
        messages.append(rtnl.set_link(link.index, up=True))
    if messages:
        yield Repair("bridge", tuple(messages))
    wanted = [gateway_interface(cidr) for cidr in network.pod_cidrs]
    yield from _addresses("bridge", link, wanted, reading.addresses)


def _vxlan(network: NodeNetwork, reading: Reading) -> Iterator[Repair]:
    link = reading.links.get(VXLAN)
    lower = reading.links.get(network.underlay_link)
    lower_index = lower.index if lower else 0
    if link is None or not _vxlan_fits(link, network, lower_index):
        removal = (rtnl.delete_link(link.index),) if link else ()
        creation = rtnl.create_vxlan(
            VXLAN,
            network.vtep_mac,
            network.pod_mtu,
            vni=network.vni,
            port=network.vxlan_port,
            local=network.underlay,
            lower=lower_index,
        )
        yield Repair("vxlan", (*removal, creation))
        return
    messages = list(_link_basics(link, network.vtep_mac, network.pod_mtu))
    if not link.up:
        messages.append(rtnl.set_link(link.index, up=True))
    if messages:
        yield Repair("vxlan", tuple(messages))
    wanted = [ipaddress.ip_interface(vtep_address(cidr)) for cidr in network.pod_cidrs]
    yield from _addresses("vxlan", link, wanted, reading.addresses)


def _link_basics(link: rtnl_read.Link, mac: str, mtu: int) -> Iterator[bytes]:
    if link.generates_addresses:
        yield rtnl.set_link(link.index, rtnl.NO_ADDRESS_GENERATION)
    if link.mac != mac:
        yield rtnl.set_link(link.index, rtnl.mac(mac))
    if link.mtu != mtu:
        yield rtnl.set_link(link.index, rtnl.mtu(mtu))


def _vxlan_fits(link: rtnl_read.Link, network: NodeNetwork, lower: int) -> bool:
    """Whether the attributes that cannot be changed later are as asked."""
    if link.kind != "vxlan":
        return False
    data = attributes(link.data)
    local = data.get(4) or data.get(17) or b""
    return (
        data.get(1) == struct.pack("=I", network.vni)
        and data.get(15) == struct.pack(">H", network.vxlan_port)
        and data.get(7) == b"\0"
        and local == network.underlay.packed
        and data.get(3, struct.pack("=I", 0)) == struct.pack("=I", lower)
    )


def _addresses(
    what: str, link: rtnl_read.Link, wanted: Iterable[IPInterface], found: Iterable[rtnl_read.Address]
) -> Iterator[Repair]:
    there = {address.interface for address in found if address.index == link.index and address.global_scope}
    asked = set(wanted)
    for interface in sorted(there - asked, key=str):
        yield Repair(f"{what} address {interface}", (rtnl.delete_address(link.index, interface),))
    for interface in sorted(asked - there, key=str):
        yield Repair(f"{what} address {interface}", (rtnl.add_address(link.index, interface),))


def _sysctls(network: NodeNetwork, reading: Reading) -> Iterator[Repair]:
    for name, value in wanted_sysctls(network).items():
        found = reading.sysctls.get(name)
        if found is not None and found != value:
            yield Repair(f"sysctl {name}", sysctl=(name, value))


# --- observation ------------------------------------------------------------------------------------------------------------------


def observed(network: NodeNetwork, reading: Reading) -> Observed:
    """The reading in the agent's words."""
    pods = tuple(_pods(network, reading))
    names = {pod.name for pod in pods}
    mentioned = {
        guard.element_name(key)
        for target, keys in reading.elements.items()
        if target.family == "bridge"
        for key in keys
    }
    bridge = reading.links.get(BRIDGE)
    return Observed(
        missing=tuple(repair.name for repair in repairs(network, reading)),
        peers=tuple(peers(network, reading)),
        pods=pods,
        stray_guard=frozenset(mentioned - names),
        pod_mtu=bridge.mtu if bridge else 0,
    )


def _pods(network: NodeNetwork, reading: Reading) -> Iterator[ObservedPodLink]:
    bridge = reading.links.get(BRIDGE)
    bridge_index = bridge.index if bridge else -1
    static = {entry.index: entry.mac for entry in reading.ports if entry.state & rtnl.NO_ARP}
    neighbours: dict[str, set[IPAddress]] = {}
    for entry in reading.neighbours:
        if entry.index == bridge_index and entry.state & rtnl.PERMANENT and entry.address is not None:
            neighbours.setdefault(entry.mac, set()).add(entry.address)
    guarded: dict[str, set[IPAddress]] = {}
    macs: dict[str, str] = {}
    targets = reading.elements.get(guard.TARGETS6, frozenset())
    for target in (guard.PODS4, guard.PODS6):
        for key in reading.elements.get(target, frozenset()):
            address = guard.element_address(key)
            name = guard.element_name(key)
            macs[name] = rtnl.mac_text(guard.element_mac(key))
            if address.version == 6 and (address.is_link_local or address.is_unspecified or key not in targets):
                continue
            guarded.setdefault(name, set()).add(address)
    for link in reading.links.values():
        if not is_host_end(link):
            continue
        uid, generation, slot = parse_alias(link.alias)
        mac = static.get(link.index) or macs.get(link.name) or (pod_mac(network.cluster, uid) if uid else "")
        yield ObservedPodLink(
            name=link.name,
            index=link.index,
            uid=uid,
            generation=generation,
            slot=slot,
            up=link.up,
            on_bridge=link.master == bridge_index,
            host_mac=link.mac,
            mtu=link.mtu,
            fdb=link.index in static and not link.port_learning,
            neighbours=frozenset(neighbours.get(mac, ())),
            guarded=frozenset(guarded.get(link.name, ()) if link.group == guard.PORT_GROUP else ()),
        )


def is_host_end(link: rtnl_read.Link) -> bool:
    """Whether a link is a pod's host end: by its alias, or by its group where a crash came before the alias."""
    return (
        link.kind == "veth"
        and link.name.startswith(POD_LINK_PREFIX)
        and (link.group == guard.PORT_GROUP or link.alias.startswith("podwire "))
    )


def parse_alias(alias: str) -> tuple[str, int, str]:
    """UID, generation and slot of `PodLink.alias`; empty ones when it is not of that shape."""
    words = alias.split()
    if len(words) != 4 or words[0] != "podwire" or not words[2].isdigit():
        return "", 0, ""
    return words[1], int(words[2]), words[3]


def peers(network: NodeNetwork, reading: Reading) -> list[ObservedPeer]:
    """What there is towards other nodes. A route belongs to the peer that should have it, or else to the MAC its gateway has."""
    link = reading.links.get(VXLAN)
    if link is None:
        return []
    underlays: dict[str, IPAddress] = {}
    for entry in reading.tunnels:
        if entry.own and entry.address is not None and entry.mac != "00:00:00:00:00:00":
            underlays[entry.mac] = entry.address
    neighbours: dict[str, set[IPAddress]] = {}
    macs: dict[IPAddress, str] = {}
    for entry in reading.neighbours:
        if entry.index == link.index and entry.state & rtnl.PERMANENT and entry.address is not None:
            neighbours.setdefault(entry.mac, set()).add(entry.address)
            macs[entry.address] = entry.mac
    owners: dict[IPNetwork, str] = {cidr: peer.vtep_mac for peer in network.peers for cidr in peer.pod_cidrs}
    routes: dict[str, set[IPNetwork]] = {}
    for route in reading.routes:
        if route.protocol != ROUTE_PROTOCOL or route.index != link.index or route.network is None:
            continue
        if route.gateway == vtep_address(route.network):
            mac = owners.get(route.network) or macs.get(route.gateway, "")
            routes.setdefault(mac, set()).add(route.network)
    return [
        ObservedPeer(mac, underlays.get(mac), frozenset(neighbours.get(mac, ())), frozenset(routes.get(mac, ())))
        for mac in sorted({*underlays, *neighbours, *routes})
    ]
