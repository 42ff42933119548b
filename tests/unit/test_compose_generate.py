"""The compose document: what it says of nodes and controller, and what it must never say."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest

from compose.generate import Options, compose_document, container_name, project
from podwire.errors import InvalidInput
from podwire.model.cluster import API_VERSION, ClusterSpec, parse_cluster

SUBNET = ipaddress.ip_network("10.210.4.0/24")

# What compose v1 (1.29) takes, of what version 2 knows.
SERVICE_KEYS = {
    "cap_add",
    "cap_drop",
    "command",
    "container_name",
    "devices",
    "environment",
    "healthcheck",
    "hostname",
    "image",
    "labels",
    "networks",
    "ports",
    "privileged",
    "pull_policy",
    "read_only",
    "restart",
    "security_opt",
    "stop_grace_period",
    "tmpfs",
    "user",
    "volumes",
}
HEALTH_KEYS = {"test", "interval", "timeout", "retries"}


def cluster(name: str = "demo", nodes: Any = 3) -> ClusterSpec:
    return parse_cluster(
        {"apiVersion": API_VERSION, "kind": "Cluster", "metadata": {"name": name}, "spec": {"nodes": nodes}}
    )


def document(spec: ClusterSpec, *, privileged: bool = True, devices: tuple[str, ...] = ()) -> dict[str, Any]:
    return compose_document(spec, Options("podwire:x", (SUBNET,), privileged=privileged, devices=devices))


@pytest.mark.parametrize("privileged", [True, False])
def test_only_keys_that_both_compose_versions_take(privileged: bool) -> None:
    made = document(cluster(), privileged=privileged, devices=("/dev/net/tun",))
    assert set(made) == {"services", "networks", "volumes"}
    for service in made["services"].values():
        assert set(service) <= SERVICE_KEYS
        assert set(service["healthcheck"]) == HEALTH_KEYS
        assert all(isinstance(port, str) for port in service.get("ports", []))
        assert all(isinstance(volume, str) for volume in service["volumes"])


def test_a_service_and_a_volume_for_the_controller_and_each_node() -> None:
    made = document(cluster(nodes=[{"name": "a", "zone": "z1"}, {"name": "b"}]))
    assert sorted(made["services"]) == ["a", "b", "controller"]
    assert sorted(made["volumes"]) == ["a-state", "b-state", "controller-state"]
    assert made["volumes"]["a-state"]["name"] == "podwire-demo-a"
    assert made["services"]["a"]["volumes"] == ["a-state:/var/lib/podwire"]
    assert made["services"]["a"]["labels"] == {
        "podwire.cluster": "demo",
        "podwire.role": "node",
        "podwire.node": "a",
    }


@pytest.mark.parametrize("privileged", [True, False])
def test_nothing_of_the_host_is_inside_and_only_the_loopback_port_is_published(privileged: bool) -> None:
    made = document(cluster(), privileged=privileged)
    assert "docker.sock" not in json.dumps(made)
    for name, service in made["services"].items():
        # A bind mount starts with a path; a named volume with its name.
        assert not any(volume.startswith(("/", ".", "~")) for volume in service["volumes"])
        assert service.get("ports", []) == (["127.0.0.1::7443"] if name == "controller" else [])
        assert "network_mode" not in service
        assert "pid" not in service


def test_the_controller_has_no_rights_at_all() -> None:
    controller = document(cluster())["services"]["controller"]
    assert "privileged" not in controller
    assert controller["user"] == "65532:65532"
    assert controller["cap_drop"] == ["ALL"]
    assert controller["security_opt"] == ["no-new-privileges:true"]
    assert controller["read_only"] is True


def test_restricted_nodes_have_two_capabilities() -> None:
    node = document(cluster(), privileged=False, devices=("/dev/net/tun",))["services"]["node-1"]
    assert "privileged" not in node
    assert node["cap_add"] == ["NET_ADMIN", "SYS_ADMIN"]
    assert node["security_opt"] == ["seccomp=unconfined", "apparmor=unconfined"]
    assert node["devices"] == ["/dev/net/tun:/dev/net/tun"]


def test_privileged_nodes_are_just_that() -> None:
    node = document(cluster())["services"]["node-1"]
    assert node["privileged"] is True
    assert "cap_add" not in node


def test_the_network_has_the_given_range_and_a_gateway_of_our_choice() -> None:
    network = document(cluster())["networks"]["underlay"]
    assert network["ipam"]["config"] == [{"subnet": "10.210.4.0/24", "gateway": "10.210.4.1"}]
    assert "enable_ipv6" not in network


def test_a_range_of_version_6_switches_it_on() -> None:
    subnets = (SUBNET, ipaddress.ip_network("fd00:1::/64"))
    network = compose_document(cluster(), Options("podwire:x", subnets))["networks"]["underlay"]
    assert network["enable_ipv6"] is True
    assert network["ipam"]["config"][1] == {"subnet": "fd00:1::/64", "gateway": "fd00:1::1"}


def test_clusters_share_no_name() -> None:
    names = {container_name(name, node) for name in ("podwire", "demo", "podwire-demo") for node in ("a", "controller")}
    assert len(names) == 6
    assert project("podwire") == "podwire"


def test_a_node_may_not_take_the_controllers_name() -> None:
    with pytest.raises(InvalidInput, match="controller's own name") as caught:
        document(cluster(nodes=[{"name": "a"}, {"name": "controller"}]))
    assert caught.value.field == "spec.nodes[1].name"
