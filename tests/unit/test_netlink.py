"""Netlink's envelope, and the messages and rules packed into it: pure, so without a kernel."""

from __future__ import annotations

import dataclasses
import errno
import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.kernel import guard, netlink, node, rtnl, wiring
from nodeagent.kernel.base import NodeNetwork, Peer, PodLink
from nodeagent.kernel.nft import TableReading, pad
from podwire.model import names
from podwire.model.addresses import IPAddress, IPInterface

macs = st.binary(min_size=6, max_size=6).map(lambda data: (bytes((data[0] & 0xFC | 2,)) + data[1:]).hex(":"))
addresses4 = st.integers(2, 254).map(lambda host: ipaddress.ip_interface(f"10.244.1.{host}/24"))
addresses6 = st.integers(2, 2**64 - 1).map(
    lambda host: ipaddress.ip_interface((ipaddress.IPv6Address("fd00:244:0:1::") + host, 64))
)


@st.composite
def pod_links(draw: st.DrawFn) -> PodLink:
    uid = str(draw(st.uuids()))
    addresses: list[IPInterface] = [draw(addresses4)]
    gateways: list[IPAddress] = [ipaddress.ip_address("10.244.1.1")]
    if draw(st.booleans()):
        addresses.append(draw(addresses6))
        gateways.append(ipaddress.ip_address("fd00:244:0:1::1"))
    return PodLink(
        uid=uid,
        generation=draw(st.integers(1, 1000)),
        slot="0123456789ab",
        name=names.pod_link("c", uid),
        host_mac=draw(macs),
        pod_mac=draw(macs),
        addresses=tuple(addresses),
        gateways=tuple(gateways),
        gateway_mac=draw(macs),
        mtu=draw(st.sampled_from([1430, 1450, 8950])),
        guard=draw(st.booleans()),
    )


def network(**changes: object) -> NodeNetwork:
    base = NodeNetwork(
        cluster="c",
        node="a",
        underlay_link="eth0",
        underlay=ipaddress.ip_address("172.30.0.11"),
        node_addresses=(ipaddress.ip_address("172.30.0.11"), ipaddress.ip_address("172.30.0.12")),
        cluster_cidrs=(ipaddress.ip_network("10.244.0.0/16"),),
        service_cidrs=(ipaddress.ip_network("10.96.0.0/16"),),
        pod_cidrs=(ipaddress.ip_network("10.244.1.0/24"),),
        bridge_mac="02:00:00:00:00:01",
        vtep_mac="02:00:00:00:00:02",
        vni=77,
        vxlan_port=8472,
        pod_mtu=1450,
        guard=True,
        peers=(
            Peer(
                "b", ipaddress.ip_address("172.30.0.12"), (ipaddress.ip_network("10.244.2.0/24"),), "02:00:00:00:00:03"
            ),
        ),
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


@given(st.dictionaries(st.integers(1, 1000), st.binary(max_size=100), max_size=20))
def test_attributes_read_back_as_packed(wanted: dict[int, bytes]) -> None:
    packed = b"".join(netlink.attr(kind, data) for kind, data in wanted.items())
    assert len(packed) % 4 == 0
    assert netlink.attributes(packed) == wanted


@given(st.binary(max_size=300))
def test_no_bytes_upset_the_readers(data: bytes) -> None:
    """What a kernel of another version sends may be unknown, but never endless or fatal."""
    netlink.attributes(data)
    list(netlink.elements(data))
    list(netlink.parse(data))


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=20))
def test_messages_of_a_datagram_are_found_again(bodies: list[bytes]) -> None:
    packed = [netlink.message(16, 0, body) for body in bodies]
    datagram = b"".join(packed)
    starts = netlink.offsets(datagram)
    assert [datagram[start : start + len(each)] for start, each in zip(starts, packed, strict=True)] == packed
    assert [payload for _, _, _, payload in netlink.parse(datagram)] == bodies


@pytest.mark.parametrize(
    ("flags", "payload", "wanted"),
    [
        pytest.param(0, struct.pack("=i", 0) + bytes(16), None, id="an acknowledgement"),
        pytest.param(
            0x100, struct.pack("=i", -errno.EEXIST) + bytes(16), netlink.Refusal(errno.EEXIST, ""), id="an errno alone"
        ),
        pytest.param(
            0x300,
            struct.pack("=i", -errno.EINVAL) + bytes(16) + netlink.attr_string(1, "no such thing"),
            netlink.Refusal(errno.EINVAL, "no such thing"),
            id="with the kernel's own words",
        ),
    ],
)
def test_refusals_are_read(flags: int, payload: bytes, wanted: netlink.Refusal | None) -> None:
    assert netlink.refusal(flags, payload) == wanted


def test_a_refusal_names_object_and_reason() -> None:
    error = netlink.Refusal(errno.EINVAL, "Invalid MTU").error("create", "pod link v1")
    assert (error.message, error.errno) == ("create pod link v1: Invalid argument (Invalid MTU)", errno.EINVAL)


@given(st.lists(pod_links(), min_size=1, max_size=5))
def test_a_filled_template_is_what_packing_gives(links: list[PodLink]) -> None:
    place = wiring.Place(bridge=7, node_netns=3, ipv6=True)
    templates = wiring.Templates(place)
    for link in links:
        first, datagram, last, rise = templates.fill(link)
        assert datagram == b"".join(wiring.pair(link, place))
        assert rise == b"".join(wiring.rise(link))
        assert list(first.starts) == netlink.offsets(datagram)
        assert list(last.starts) == netlink.offsets(rise)


@given(pod_links())
def test_guard_elements_name_their_pod(link: PodLink) -> None:
    wanted = {interface.ip for interface in link.addresses}
    found = set()
    for target, keys in guard.pod_elements(link).items():
        for key in keys:
            assert guard.element_name(key) == link.name
            assert rtnl.mac_text(guard.element_mac(key)) == link.pod_mac
            assert guard.element_text(target, key).startswith(f'"{link.name}" . {link.pod_mac} . ')
            found.add(guard.element_address(key))
    assert wanted <= found
    assert all(address.is_link_local or address.is_unspecified for address in found - wanted)


@given(pod_links())
def test_an_alias_says_whose_a_link_is(link: PodLink) -> None:
    assert node.parse_alias(link.alias) == (link.uid, link.generation, link.slot)


@pytest.mark.parametrize("alias", ["", "podwire", "podwire uid x slot", "docker uid 1 slot", "podwire a 1 b c"])
def test_another_alias_is_nobodys(alias: str) -> None:
    assert node.parse_alias(alias) == ("", 0, "")


def test_concatenated_keys_are_padded_to_registers() -> None:
    assert pad((b"v1".ljust(16, b"\0"), b"\1" * 6, b"\2" * 4)) == b"v1" + bytes(14) + b"\1" * 6 + bytes(2) + b"\2" * 4


def reading_of(table: guard.Table) -> TableReading:
    return TableReading(
        comment=table.digest,
        dormant=False,
        chains=table._hooks(),
        rules={chain.name: tuple(str(number) for number in range(len(chain.rules))) for chain in table.chains},
        sets=frozenset(name for name, _ in table.sets) | {"__set0"},
    )


@pytest.mark.parametrize("table", guard.tables(network()), ids=lambda table: table.family)
def test_a_table_is_right_only_when_all_of_it_is_there(table: guard.Table) -> None:
    right = reading_of(table)
    assert table.right(right)
    chain = next(chain.name for chain in table.chains if chain.rules)
    wrong = [
        None,
        dataclasses.replace(right, comment="another"),
        dataclasses.replace(right, dormant=True),
        dataclasses.replace(right, chains={**right.chains, "extra": ""}),
        dataclasses.replace(right, chains={**right.chains, chain: "filter 9 9 1"}),
        dataclasses.replace(right, rules={**right.rules, chain: right.rules[chain][1:]}),
        dataclasses.replace(right, rules={**right.rules, chain: ("", *right.rules[chain])}),
        dataclasses.replace(right, sets=frozenset()),
    ]
    assert [table.right(each) for each in wrong] == [False] * len(wrong)


def test_a_damaged_table_keeps_its_sets_and_another_is_replaced_with_its_elements() -> None:
    table = guard.guard_table()
    mended = table.commands(dataclasses.replace(reading_of(table), rules={}), {"pods4": ["x"]})
    assert "delete table" not in mended
    assert mended.startswith("flush table bridge podwire\n")
    replaced = table.commands(None, {"pods4": ["x"]})
    assert replaced.startswith("add table bridge podwire\ndelete table bridge podwire\n")
    assert "elements = { x };" in replaced


def test_digests_follow_the_network() -> None:
    def digests(wanted: NodeNetwork) -> list[str]:
        return [table.digest for table in guard.tables(wanted)]

    assert digests(network()) == digests(network(peers=(), node_addresses=())), "members are elements, not text"
    assert digests(network()) != digests(network(vxlan_port=4789))
    assert [table.family for table in guard.tables(network(guard=False))] == ["ip"]


def test_traffic_within_the_cluster_is_not_masqueraded() -> None:
    (rule,) = guard.node_table(network(), 4).chains[-1].rules
    for kept in ("10.244.0.0/16", "10.96.0.0/16", "@nodes", "pw-bridge", "pw-vxlan"):
        assert kept in rule.split("masquerade")[0]
