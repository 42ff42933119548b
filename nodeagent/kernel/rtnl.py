"""rtnetlink: requests for links, addresses, routes, neighbours and forwarding entries.

In: names, addresses and indices. Out: messages for `netlink.NetlinkSocket`; `rtnl_read.py` decodes what dumps say. Numbers are the
kernel's (linux/if_link.h, rtnetlink.h, neighbour.h); flags of a request say whether it creates, replaces or must be the first.
"""

from __future__ import annotations

import struct

from nodeagent.kernel.netlink import (
    CREATE,
    EXCL,
    REPLACE,
    attr,
    attr_string,
    attr_u8,
    attr_u32,
    message,
    nested,
)
from podwire.model.addresses import IPAddress, IPInterface, IPNetwork
from podwire.model.names import ROUTE_PROTOCOL

AF_INET, AF_INET6, AF_BRIDGE = 2, 10, 7
NEW_LINK, DELETE_LINK, GET_LINK = 16, 17, 18
NEW_ADDRESS, DELETE_ADDRESS, GET_ADDRESS = 20, 21, 22
NEW_ROUTE, DELETE_ROUTE, GET_ROUTE = 24, 25, 26
NEW_NEIGHBOUR, DELETE_NEIGHBOUR, GET_NEIGHBOUR = 28, 29, 30
NEW_QDISC = 36

IFF_UP = 1
PERMANENT, NO_ARP = 0x80, 0x40
NTF_SELF, _NTF_MASTER = 0x02, 0x04
_IFA_F_NODAD, _IFA_F_PERMANENT = 0x02, 0x80
TABLE_MAIN, UNICAST, _RTNH_F_ONLINK = 254, 1, 4
_PROTOCOL_STATIC = 4

LINK = struct.Struct("=BxHiII")
ADDRESS = struct.Struct("=BBBBI")
ROUTE = struct.Struct("=BBBBBBBBI")
NEIGHBOUR = struct.Struct("=BxxxiHBB")

# IFLA_AF_SPEC / AF_INET6 / ADDR_GEN_MODE none: no link-local address, hence no flood of DAD and MLD to every port of the bridge.
# It must reach the kernel before the link goes up: the flags of a message are applied before its address family part.
NO_ADDRESS_GENERATION = nested(26, nested(AF_INET6, attr_u8(8, 1)))


def mac_bytes(mac: str) -> bytes:
    """Six bytes of a MAC in its usual spelling."""
    return bytes.fromhex(mac.replace(":", ""))


def mac_text(data: bytes) -> str:
    """The usual spelling of a MAC."""
    return data.hex(":")


def family(address: IPAddress | IPNetwork) -> int:
    """AF_INET or AF_INET6."""
    return AF_INET if address.version == 4 else AF_INET6


def link_header(index: int = 0, flags: int = 0, change: int = 0, link_family: int = 0) -> bytes:
    """struct ifinfomsg."""
    return LINK.pack(link_family, 0, index, flags, change)


# --- links ------------------------------------------------------------------------------------------------------------------------


def set_link(index: int, *attributes_: bytes, up: bool | None = None) -> bytes:
    """Changes a link that exists."""
    flags, change = (0, 0) if up is None else (IFF_UP if up else 0, IFF_UP)
    return message(NEW_LINK, 0, link_header(index, flags, change), *attributes_)


def delete_link(index: int) -> bytes:
    """Deletes a link; slow (18 ms): never for a link that goes with its namespace."""
    return message(DELETE_LINK, 0, link_header(index))


def name(value: str) -> bytes:
    """IFLA_IFNAME."""
    return attr_string(3, value)


def mac(value: str) -> bytes:
    """IFLA_ADDRESS."""
    return attr(1, mac_bytes(value))


def mtu(value: int) -> bytes:
    """IFLA_MTU."""
    return attr_u32(4, value)


def master(index: int) -> bytes:
    """IFLA_MASTER."""
    return attr_u32(10, index)


def group(value: int) -> bytes:
    """IFLA_GROUP."""
    return attr_u32(27, value)


def alias(value: str) -> bytes:
    """IFLA_IFALIAS; ignored when a link is created, so it goes into a later message."""
    return attr(20, value.encode())


def port_learning(*, on: bool) -> bytes:
    """The learning switch of a bridge port, in a message that may change other things of the link too."""
    return nested(18, attr_string(4, "bridge"), nested(5, attr_u8(8, int(on))))


# All 0 on our bridge: forward delay (it has no use without STP, but would be news of each port 15 s after it came), STP, multicast
# snooping, and the calls of iptables, ip6tables and arptables.
BRIDGE_OPTIONS = (1, 5, 23, 36, 37, 38)


def _bridge_options() -> bytes:
    values = (attr_u32(kind, 0) if kind in (1, 5) else attr_u8(kind, 0) for kind in BRIDGE_OPTIONS)
    return nested(18, attr_string(1, "bridge"), nested(2, *values))


def create_bridge(bridge_name: str, bridge_mac: str, bridge_mtu: int) -> bytes:
    """A bridge without STP and snooping, whose frames do not visit the IP hooks; down, without address generation yet."""
    parts = (name(bridge_name), mac(bridge_mac), mtu(bridge_mtu), _bridge_options())
    return message(NEW_LINK, CREATE | EXCL, link_header(), *parts)


def set_bridge_options(index: int) -> bytes:
    """Puts the switches of an existing bridge as `create_bridge` has them."""
    return message(NEW_LINK, 0, link_header(index), _bridge_options())


def create_vxlan(
    vxlan_name: str, vxlan_mac: str, vxlan_mtu: int, *, vni: int, port: int, local: IPAddress, lower: int
) -> bytes:
    """A tunnel end that learns nothing: every entry comes from us."""
    data = nested(
        2,
        attr_u32(1, vni),
        attr_u32(3, lower),
        attr(4 if local.version == 4 else 17, local.packed),
        attr_u8(7, 0),  # learning
        attr(15, struct.pack(">H", port)),
    )
    info = nested(18, attr_string(1, "vxlan"), data)
    return message(NEW_LINK, CREATE | EXCL, link_header(), name(vxlan_name), mac(vxlan_mac), mtu(vxlan_mtu), info)


def create_veth(
    *,
    host_name: str,
    host_mac: str,
    pod_mac: str,
    link_mtu: int,
    host_group: int,
    bridge: int,
    node_netns: int,
) -> bytes:
    """A pair made in place by a socket in the pod's namespace: eth0 there, the host end in `node_netns` as an enslaved port, up.
    No device is ever moved (16 ms under the global lock), and one queue each makes it a quarter faster.
    """
    one_queue = attr_u32(31, 1) + attr_u32(32, 1)
    peer = attr(1, link_header() + name("eth0") + mac(pod_mac) + mtu(link_mtu) + one_queue)
    return message(
        NEW_LINK,
        CREATE | EXCL,
        link_header(0, IFF_UP, IFF_UP),
        name(host_name),
        mac(host_mac),
        mtu(link_mtu),
        attr_u32(28, node_netns),
        master(bridge),
        group(host_group),
        one_queue,
        nested(18, attr_string(1, "veth"), nested(2, peer)),
    )


# --- addresses, routes, neighbours ------------------------------------------------------------------------------------------------


def add_address(index: int, interface: IPInterface) -> bytes:
    """An address; IPv6 ones without duplicate address detection, as the allocator knows there is no other."""
    packed = interface.ip.packed
    flags = _IFA_F_NODAD if interface.version == 6 else 0
    header = ADDRESS.pack(family(interface.ip), interface.network.prefixlen, flags, 0, index)
    return message(NEW_ADDRESS, CREATE | EXCL, header, attr(2, packed), attr(1, packed))


def delete_address(index: int, interface: IPInterface) -> bytes:
    """The reverse."""
    header = ADDRESS.pack(family(interface.ip), interface.network.prefixlen, 0, 0, index)
    return message(DELETE_ADDRESS, 0, header, attr(2, interface.ip.packed))


def add_default_route(index: int, gateway: IPAddress) -> bytes:
    """A pod's way out."""
    header = ROUTE.pack(family(gateway), 0, 0, 0, TABLE_MAIN, _PROTOCOL_STATIC, 0, UNICAST, 0)
    return message(NEW_ROUTE, CREATE | EXCL, header, attr(5, gateway.packed), attr_u32(4, index))


def _peer_route(verb: int, flags: int, index: int, network: IPNetwork, gateway: IPAddress) -> bytes:
    header = ROUTE.pack(
        family(network), network.prefixlen, 0, 0, TABLE_MAIN, ROUTE_PROTOCOL, 0, UNICAST, _RTNH_F_ONLINK
    )
    attributes_ = attr(1, network.network_address.packed) + attr(5, gateway.packed) + attr_u32(4, index)
    return message(verb, flags, header, attributes_)


def add_peer_route(index: int, network: IPNetwork, gateway: IPAddress) -> bytes:
    """A peer's pod CIDR via its tunnel end. Never replaces: a route to the same place may be someone else's."""
    return _peer_route(NEW_ROUTE, CREATE | EXCL, index, network, gateway)


def delete_peer_route(index: int, network: IPNetwork, gateway: IPAddress) -> bytes:
    """The reverse; only a route with our protocol number matches."""
    return _peer_route(DELETE_ROUTE, 0, index, network, gateway)


def set_neighbour(index: int, address: IPAddress, neighbour_mac: str) -> bytes:
    """A permanent neighbour entry, which also takes no room in the neighbour table that all namespaces share."""
    header = NEIGHBOUR.pack(family(address), index, PERMANENT, 0, 0)
    body = attr(1, address.packed) + attr(2, mac_bytes(neighbour_mac))
    return message(NEW_NEIGHBOUR, CREATE | REPLACE, header, body)


def delete_neighbour(index: int, address: IPAddress) -> bytes:
    """The reverse."""
    return message(DELETE_NEIGHBOUR, 0, NEIGHBOUR.pack(family(address), index, 0, 0, 0), attr(1, address.packed))


def set_port_entry(port: int, entry_mac: str) -> bytes:
    """A static forwarding entry of a bridge: this MAC is behind this port and nowhere else."""
    header = NEIGHBOUR.pack(AF_BRIDGE, port, NO_ARP, _NTF_MASTER, 0)
    return message(NEW_NEIGHBOUR, CREATE | REPLACE, header, attr(2, mac_bytes(entry_mac)))


def delete_port_entry(port: int, entry_mac: str) -> bytes:
    """The reverse."""
    header = NEIGHBOUR.pack(AF_BRIDGE, port, 0, _NTF_MASTER, 0)
    return message(DELETE_NEIGHBOUR, 0, header, attr(2, mac_bytes(entry_mac)))


def set_tunnel_entry(index: int, entry_mac: str, remote: IPAddress) -> bytes:
    """A forwarding entry of a VXLAN device: this MAC is behind this node."""
    header = NEIGHBOUR.pack(AF_BRIDGE, index, PERMANENT, NTF_SELF, 0)
    body = attr(2, mac_bytes(entry_mac)) + attr(1, remote.packed)
    return message(NEW_NEIGHBOUR, CREATE | REPLACE, header, body)


def delete_tunnel_entry(index: int, entry_mac: str, remote: IPAddress) -> bytes:
    """The reverse."""
    header = NEIGHBOUR.pack(AF_BRIDGE, index, 0, NTF_SELF, 0)
    return message(DELETE_NEIGHBOUR, 0, header, attr(2, mac_bytes(entry_mac)), attr(1, remote.packed))
