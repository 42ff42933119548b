"""The host's networks: what collides with them, and what is free."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.drivers.hostnet import UNDERLAY_POOL, HostNetwork, check_collisions, free_subnet, parse_routes
from podwire.errors import Exhausted, InvalidInput
from podwire.model.cluster import API_VERSION, ClusterSpec, parse_cluster


def cluster(nodes: int = 3, name: str = "demo", **spec: Any) -> ClusterSpec:
    return parse_cluster(
        {
            "apiVersion": API_VERSION,
            "kind": "Cluster",
            "metadata": {"name": name},
            "spec": {"nodes": nodes, **spec},
        }
    )


def test_default_and_link_local_routes_are_nobodys_network() -> None:
    routes = [
        {"dst": "default", "gateway": "192.0.2.1", "dev": "eth0"},
        {"dst": "0.0.0.0/1", "dev": "tun0"},
        {"dst": "192.0.2.0/24", "dev": "eth0"},
        {"dst": "10.1.2.3", "dev": "wg0"},
        {"dst": "fe80::/64", "dev": "eth0"},
        {"dst": "fd00::/48", "dev": "eth0"},
        {"type": "unreachable", "dst": "10.99.0.0/16"},
    ]
    found = [(str(each.network), each.link) for each in parse_routes(json.dumps(routes))]
    assert found == [("192.0.2.0/24", "eth0"), ("10.1.2.3/32", "wg0"), ("fd00::/48", "eth0"), ("10.99.0.0/16", "")]


def test_no_output_means_no_networks() -> None:
    assert parse_routes("") == []


@pytest.mark.parametrize(
    ("host", "spec", "field"),
    [
        ("10.244.3.0/24", {}, "spec.podCIDR"),
        ("10.0.0.0/8", {}, "spec.podCIDR"),
        ("10.96.0.10/32", {}, "spec.serviceCIDR"),
        ("192.168.7.0/24", {"underlayCIDR": "192.168.0.0/16"}, "spec.underlayCIDR"),
        ("fd00:10::/64", {"podCIDRv6": "fd00:10::/48"}, "spec.podCIDRv6"),
    ],
)
def test_a_range_that_the_host_routes_is_refused_with_its_place(host: str, spec: dict[str, Any], field: str) -> None:
    networks = [HostNetwork(ipaddress.ip_network(host), "eth7")]
    with pytest.raises(InvalidInput, match="eth7") as caught:
        check_collisions(cluster(**spec), networks)
    assert caught.value.field == field


def test_the_clusters_own_network_collides_with_nothing() -> None:
    own = ipaddress.ip_network("10.210.0.0/24")
    check_collisions(cluster(underlayCIDR="10.210.0.0/24"), [HostNetwork(own, "br-1")], own=[own])


@given(
    nodes=st.integers(1, 200),
    name=st.from_regex(r"[a-z]{1,12}", fullmatch=True),
    taken=st.lists(st.integers(0, 4095), max_size=40),
)
def test_a_free_range_is_free_large_enough_and_always_the_same(nodes: int, name: str, taken: list[int]) -> None:
    spec = cluster(nodes=nodes, name=name)
    used = [ipaddress.ip_network((int(UNDERLAY_POOL.network_address) + index * 256, 24)) for index in taken]
    found = free_subnet(spec, used)
    assert found.subnet_of(UNDERLAY_POOL)
    assert not any(found.overlaps(other) for other in used)
    assert not found.overlaps(ipaddress.IPv4Network("10.244.0.0/16"))
    assert found.num_addresses >= nodes + 4
    assert free_subnet(spec, used) == found


def test_two_clusters_begin_at_two_places() -> None:
    assert free_subnet(cluster(name="one"), []) != free_subnet(cluster(name="two"), [])


def test_a_full_pool_is_said_so() -> None:
    with pytest.raises(Exhausted, match="no range"):
        free_subnet(cluster(), [UNDERLAY_POOL])
