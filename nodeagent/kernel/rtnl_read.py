"""What rtnetlink dumps say: links, addresses, routes, neighbours and forwarding entries as frozen values.

In: a socket in some namespace. Out: everything of a kind there, narrowed by the kernel where it can. Only the attributes that someone
compares are decoded, because a node with hundreds of pods is read often; `rtnl.py` packs the requests that change things.
"""

from __future__ import annotations

import errno
import ipaddress
import struct
from dataclasses import dataclass

from nodeagent.kernel import rtnl
from nodeagent.kernel.netlink import NetlinkSocket, Refusal, attr_u32, attributes, message
from podwire.errors import KernelError
from podwire.model.addresses import IPAddress, IPInterface, IPNetwork

_SKIP_STATISTICS = 8  # RTEXT_FILTER_SKIP_STATS: half the size of a link dump
_U32 = struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class Link:
    """A link as a dump shows it; `peer` is the index of a veth's other end, or of what a device lies on."""

    index: int
    name: str
    up: bool
    mac: str
    mtu: int
    master: int
    group: int
    alias: str
    peer: int
    kind: str
    port_learning: bool  # of a bridge port
    generates_addresses: bool
    data: bytes  # IFLA_INFO_DATA, decoded where the kind matters


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a link."""

    index: int
    interface: IPInterface
    global_scope: bool


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route of the main table."""

    network: IPNetwork | None  # None: the default route
    gateway: IPAddress | None
    index: int
    protocol: int
    version: int
    metric: int


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A neighbour entry (address → MAC) or, in a bridge or tunnel dump, a forwarding entry (MAC → port or remote address)."""

    index: int
    address: IPAddress | None
    mac: str
    state: int
    own: bool  # an entry the device itself keeps (NTF_SELF)


def read_links(socket: NetlinkSocket) -> list[Link]:
    """All links of the socket's namespace."""
    request = message(rtnl.GET_LINK, 0, rtnl.link_header(), attr_u32(29, _SKIP_STATISTICS))
    return [_link(payload) for _, payload in socket.dump(request, "links")]


def read_link(socket: NetlinkSocket, index: int) -> Link | None:
    """One link, None when there is none of that index."""
    answer = socket.ask(message(rtnl.GET_LINK, 0, rtnl.link_header(index), attr_u32(29, _SKIP_STATISTICS)))
    return None if isinstance(answer, Refusal) else _link(answer[1])


def _link(payload: bytes) -> Link:
    _, _, index, flags, _ = rtnl.LINK.unpack_from(payload)
    found = attributes(payload, 16)
    info = attributes(found[18]) if 18 in found else {}
    learning = True
    if 5 in info and info.get(4) == b"bridge\0":
        learning = attributes(info[5]).get(8, b"\1") != b"\0"
    generates = False  # so it stays where there is no IPv6
    if 26 in found:
        inet6 = attributes(found[26]).get(rtnl.AF_INET6)
        if inet6 is not None:
            generates = attributes(inet6).get(8, b"\0") != b"\1"
    return Link(
        index=index,
        name=_string(found.get(3, b"")),
        up=bool(flags & rtnl.IFF_UP),
        mac=rtnl.mac_text(found.get(1, b"")),
        mtu=_u32(found.get(4)),
        master=_u32(found.get(10)),
        group=_u32(found.get(27)),
        alias=_string(found.get(20, b"")),
        peer=_u32(found.get(5)),
        kind=_string(info.get(1, b"")),
        port_learning=learning,
        generates_addresses=generates,
        data=info.get(2, b""),
    )


def read_addresses(socket: NetlinkSocket) -> list[Address]:
    """All addresses of the socket's namespace."""
    found: list[Address] = []
    for _, payload in socket.dump(message(rtnl.GET_ADDRESS, 0, rtnl.ADDRESS.pack(0, 0, 0, 0, 0)), "addresses"):
        address_family, prefix, _, scope, index = rtnl.ADDRESS.unpack_from(payload)
        if address_family not in {rtnl.AF_INET, rtnl.AF_INET6}:
            continue
        parts = attributes(payload, 8)
        packed = parts.get(2) or parts.get(1)
        if packed is not None:
            found.append(Address(index, _interface(packed, prefix), scope == 0))
    return found


def read_routes(socket: NetlinkSocket, route_family: int, *, protocol: int = 0, link: int = 0) -> list[Route]:
    """Unicast routes of the main table, narrowed by the kernel to a protocol number or a link where given."""
    header = rtnl.ROUTE.pack(route_family, 0, 0, 0, rtnl.TABLE_MAIN, protocol, 0, rtnl.UNICAST, 0)
    narrow = attr_u32(4, link) if link else b""
    found: list[Route] = []
    try:
        dumped = socket.dump(message(rtnl.GET_ROUTE, 0, header, narrow), "routes")
    except KernelError as error:
        if error.errno == errno.ENOENT:  # a namespace that never had a route has no table either
            return []
        raise
    for _, payload in dumped:
        _, prefix, _, _, table, number, _, kind, _ = rtnl.ROUTE.unpack_from(payload)
        if table != rtnl.TABLE_MAIN or kind != rtnl.UNICAST:
            continue
        parts = attributes(payload, 12)
        network = None
        if prefix:
            size = 4 if route_family == rtnl.AF_INET else 16
            network = _interface(parts.get(1, bytes(size)), prefix).network
        gateway = ipaddress.ip_address(parts[5]) if 5 in parts else None
        version = 4 if route_family == rtnl.AF_INET else 6
        found.append(Route(network, gateway, _u32(parts.get(4)), number, version, _u32(parts.get(6))))
    return found


def read_neighbours(socket: NetlinkSocket, *, link: int = 0) -> list[Neighbour]:
    """Neighbour entries of both families, of one link where given."""
    request = message(rtnl.GET_NEIGHBOUR, 0, rtnl.NEIGHBOUR.pack(0, 0, 0, 0, 0), attr_u32(8, link) if link else b"")
    return [_neighbour(payload) for _, payload in socket.dump(request, "neighbours")]


def read_bridge_entries(socket: NetlinkSocket, bridge: int) -> list[Neighbour]:
    """Forwarding entries on the ports of a bridge."""
    request = message(rtnl.GET_NEIGHBOUR, 0, rtnl.NEIGHBOUR.pack(rtnl.AF_BRIDGE, 0, 0, 0, 0), attr_u32(9, bridge))
    return [_neighbour(payload) for _, payload in socket.dump(request, "bridge forwarding entries")]


def read_tunnel_entries(socket: NetlinkSocket, link: int) -> list[Neighbour]:
    """Forwarding entries of a VXLAN device."""
    request = message(rtnl.GET_NEIGHBOUR, 0, rtnl.NEIGHBOUR.pack(rtnl.AF_BRIDGE, link, 0, 0, 0))
    return [_neighbour(payload) for _, payload in socket.dump(request, "tunnel forwarding entries")]


def _neighbour(payload: bytes) -> Neighbour:
    _, index, state, flags, _ = rtnl.NEIGHBOUR.unpack_from(payload)
    parts = attributes(payload, 12)
    packed = parts.get(1)
    address = ipaddress.ip_address(packed) if packed is not None and len(packed) in {4, 16} else None
    return Neighbour(index, address, rtnl.mac_text(parts.get(2, b"")), state, bool(flags & rtnl.NTF_SELF))


def _interface(packed: bytes, prefix: int) -> IPInterface:
    if len(packed) == 4:
        return ipaddress.IPv4Interface((packed, prefix))
    return ipaddress.IPv6Interface((packed, prefix))


def _string(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


def _u32(data: bytes | None) -> int:
    return _U32.unpack(data)[0] if data is not None and len(data) == 4 else 0
