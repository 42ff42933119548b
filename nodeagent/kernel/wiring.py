"""One pod's messages: packing them from a template, and finding out what a half-wired pod lacks.

In: a `PodLink` and, for a pod that is not new, readings of both its ends. Out: netlink messages in three parts: `pair` (in the pod: the
veth, lo, addresses), `port` (on the node: alias, forwarding entry, neighbours) and `rise` (in the pod: eth0 up, gateway, route). The
guard's elements go between `port` and `rise`; `linux.py` sends. Pure.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nodeagent.kernel import guard, rtnl, rtnl_read
from nodeagent.kernel.base import PodLink
from nodeagent.kernel.netlink import offsets
from podwire.model.addresses import IPAddress, IPInterface

ETH0_INDEX = 2  # what the kernel gives the first link of a fresh namespace after lo: messages packed ahead can name it


@dataclass(frozen=True, slots=True)
class Place:
    """Where pairs are made: constant for a batch."""

    bridge: int
    node_netns: int
    ipv6: bool  # whether this kernel has it at all


def pair(link: PodLink, place: Place) -> list[bytes]:
    """Makes the pair, first of all, and configures its pod end as a fresh namespace numbers it."""
    return [
        rtnl.create_veth(
            host_name=link.name,
            host_mac=link.host_mac,
            pod_mac=link.pod_mac,
            link_mtu=link.mtu,
            host_group=guard.PORT_GROUP,
            bridge=place.bridge,
            node_netns=place.node_netns,
        ),
        *inside(link, place, ETH0_INDEX),
    ]


def inside(link: PodLink, place: Place, pod_index: int) -> list[bytes]:
    """What a new eth0 gets while it is still down."""
    quiet = [rtnl.set_link(pod_index, rtnl.NO_ADDRESS_GENERATION)] if place.ipv6 else []
    return [
        rtnl.set_link(1, up=True),
        *quiet,
        *(rtnl.add_address(pod_index, interface) for interface in link.addresses),
    ]


def rise(link: PodLink, pod_index: int = ETH0_INDEX) -> list[bytes]:
    """The last step: from here on the pod can send."""
    return [
        rtnl.set_link(pod_index, up=True),
        *(rtnl.set_neighbour(pod_index, gateway, link.gateway_mac) for gateway in link.gateways),
        *(rtnl.add_default_route(pod_index, gateway) for gateway in link.gateways),
    ]


def port(link: PodLink, index: int, place: Place, known: NodeSide | None = None) -> list[bytes]:
    """The node's side of a pod: all of it for a new port, what is missing for a `known` one."""
    found = known.link if known else None
    parts: list[bytes] = []
    if found is not None:
        if found.mac != link.host_mac:
            parts.append(rtnl.mac(link.host_mac))
        if found.mtu != link.mtu:
            parts.append(rtnl.mtu(link.mtu))
        if found.group != guard.PORT_GROUP:
            parts.append(rtnl.group(guard.PORT_GROUP))
    messages: list[bytes] = []
    if found is not None and found.master != place.bridge:
        messages.append(rtnl.set_link(index, rtnl.master(place.bridge)))
    if found is None or found.alias != link.alias:
        parts.append(rtnl.alias(link.alias))
    if found is None or found.port_learning is link.guard or found.master != place.bridge:
        parts.append(rtnl.port_learning(on=not link.guard))
    if place.ipv6 and (found is None or found.generates_addresses):
        parts.append(rtnl.NO_ADDRESS_GENERATION)
    if parts:
        messages.append(rtnl.set_link(index, *parts))
    if found is not None and not found.up:
        messages.append(rtnl.set_link(index, up=True))
    entries = known.static_macs if known else frozenset()
    wanted = {link.pod_mac} if link.guard else set()
    messages += [rtnl.delete_port_entry(index, mac) for mac in sorted(entries - wanted)]
    messages += [rtnl.set_port_entry(index, mac) for mac in sorted(wanted - entries)]
    for interface in link.addresses:
        if known is None or known.neighbours.get(interface.ip) != link.pod_mac:
            messages.append(rtnl.set_neighbour(place.bridge, interface.ip, link.pod_mac))
    return messages


@dataclass(frozen=True, slots=True)
class NodeSide:
    """A port that exists already, as read."""

    link: rtnl_read.Link
    static_macs: frozenset[str]
    neighbours: dict[IPAddress, str]  # permanent ones on the bridge


@dataclass(frozen=True, slots=True)
class PodSide:
    """The inside of a sandbox, as read."""

    eth0: rtnl_read.Link | None
    lo_up: bool
    addresses: frozenset[IPInterface]
    neighbours: dict[IPAddress, str]  # permanent ones on eth0
    default_gateways: frozenset[IPAddress]


def is_pair(eth0: rtnl_read.Link | None, host: rtnl_read.Link | None) -> bool:
    """Whether the two are ends of one veth."""
    return (
        eth0 is not None
        and host is not None
        and eth0.kind == host.kind == "veth"
        and (eth0.peer, host.peer) == (host.index, eth0.index)
    )


def mend_inside(link: PodLink, side: PodSide, eth0: rtnl_read.Link) -> list[bytes]:
    """What an eth0 lacks, apart from being up."""
    messages: list[bytes] = []
    if not side.lo_up:
        messages.append(rtnl.set_link(1, up=True))
    if eth0.generates_addresses:
        messages.append(rtnl.set_link(eth0.index, rtnl.NO_ADDRESS_GENERATION))
    if eth0.mac != link.pod_mac:
        messages.append(rtnl.set_link(eth0.index, rtnl.mac(link.pod_mac)))
    if eth0.mtu != link.mtu:
        messages.append(rtnl.set_link(eth0.index, rtnl.mtu(link.mtu)))
    wrong = [found for found in side.addresses if any(_misfits(found, wanted) for wanted in link.addresses)]
    messages += [rtnl.delete_address(eth0.index, interface) for interface in wrong]
    messages += [rtnl.add_address(eth0.index, wanted) for wanted in link.addresses if wanted not in side.addresses]
    return messages


def _misfits(found: IPInterface, wanted: IPInterface) -> bool:
    return found.ip == wanted.ip and found != wanted


def mend_rise(link: PodLink, side: PodSide, eth0: rtnl_read.Link) -> list[bytes]:
    """What an eth0 lacks to reach others."""
    messages: list[bytes] = []
    if not eth0.up:
        messages.append(rtnl.set_link(eth0.index, up=True))
    for gateway in link.gateways:
        # A link that goes up starts without the routes it had, and an address that goes takes its routes along: so both are asked
        # for again; what is there is left alone by the caller, which takes EEXIST for success.
        if side.neighbours.get(gateway) != link.gateway_mac:
            messages.append(rtnl.set_neighbour(eth0.index, gateway, link.gateway_mac))
        if gateway not in side.default_gateways:
            messages.append(rtnl.add_default_route(eth0.index, gateway))
    return messages


class Template:
    """A datagram packed once for pods of one shape; a pod then costs a join of its pieces instead of forty packed attributes."""

    def __init__(self, messages: Sequence[bytes], marks: Sequence[bytes]) -> None:
        datagram = b"".join(messages)
        self.starts = offsets(datagram)
        found = sorted(
            (position, number) for number, mark in enumerate(marks) for position in _positions(datagram, mark)
        )
        self._pieces: list[bytes] = []
        self._order: list[int] = []
        end = 0
        for position, number in found:
            self._pieces.append(datagram[end:position])
            self._order.append(number)
            end = position + len(marks[number])
        self._tail = datagram[end:]

    def fill(self, values: Sequence[bytes]) -> bytearray:
        """The datagram with these values in place of the marks."""
        parts: list[bytes] = []
        for piece, number in zip(self._pieces, self._order, strict=True):
            parts.append(piece)
            parts.append(values[number])
        parts.append(self._tail)
        return bytearray().join(parts)


def _positions(data: bytes, mark: bytes) -> list[int]:
    found: list[int] = []
    position = data.find(mark)
    while position >= 0:
        found.append(position)
        position = data.find(mark, position + len(mark))
    return found


class Templates:
    """The templates of one batch, by shape."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._known: dict[tuple[object, ...], tuple[Template, Template]] = {}

    def fill(self, link: PodLink) -> tuple[Template, bytearray, Template, bytearray]:
        """(template, datagram) of `pair` and of `rise`."""
        shape = (
            len(link.name),
            link.mtu,
            tuple((interface.version, interface.network.prefixlen) for interface in link.addresses),
            tuple(gateway.version for gateway in link.gateways),
        )
        templates = self._known.get(shape)
        if templates is None:
            templates = self._known[shape] = self._make(link)
        first, last = templates
        values = _values(link)
        return first, first.fill(values), last, last.fill(values)

    def _make(self, link: PodLink) -> tuple[Template, Template]:
        # Bytes that nothing else in a message looks like stand for the values.
        sample = replace(
            link,
            name="~" * len(link.name),
            host_mac="f2:c1:b7:a9:00:01",
            pod_mac="f2:c1:b7:a9:00:02",
            gateway_mac="f2:c1:b7:a9:00:03",
            addresses=tuple(
                ipaddress.ip_interface((_mark(interface.version, place), interface.network.prefixlen))
                for place, interface in enumerate(link.addresses)
            ),
            gateways=tuple(_mark(gateway.version, 100 + place) for place, gateway in enumerate(link.gateways)),
        )
        marks = _values(sample)
        return Template(pair(sample, self._place), marks), Template(rise(sample), marks)


def _mark(version: int, place: int) -> IPAddress:
    if version == 4:
        return ipaddress.IPv4Address(bytes((0xF1, 0xD3, 0xB5, place)))
    return ipaddress.IPv6Address(bytes((0xF1, 0xD3, 0xB5, 0x97)) * 3 + bytes((0xE9, 0xCB, 0xAD, place)))


def _values(link: PodLink) -> list[bytes]:
    return [
        link.name.encode(),
        rtnl.mac_bytes(link.host_mac),
        rtnl.mac_bytes(link.pod_mac),
        rtnl.mac_bytes(link.gateway_mac),
        *(interface.ip.packed for interface in link.addresses),
        *(gateway.packed for gateway in link.gateways),
    ]
