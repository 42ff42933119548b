"""The Cluster document: defaults, and one sentence for each thing that can be wrong."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.errors import InvalidInput, Unsupported
from podwire.model.cluster import API_VERSION, ClusterSpec, NodeSpec, cluster_json_schema, default_vni, parse_cluster


def parsed(**spec: Any) -> ClusterSpec:
    return parse_cluster({"apiVersion": API_VERSION, "kind": "Cluster", "metadata": {"name": "demo"}, "spec": spec})


def test_defaults() -> None:
    """An empty spec is a whole cluster."""
    cluster = parse_cluster({"apiVersion": API_VERSION, "kind": "Cluster"})
    assert cluster.name == "podwire"
    assert [node.name for node in cluster.nodes] == ["node-1", "node-2", "node-3"]
    assert [str(cidr) for cidr in cluster.pod_cidrs] == ["10.244.0.0/16"]
    assert cluster.node_masks == (24,)
    assert (cluster.network.plugin, cluster.network.port, cluster.network.guard) == ("bridge", 4789, True)
    assert cluster.network.vni == default_vni("podwire")


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"nodes": [{"name": "a", "zone": "z1", "labels": {"disk": "ssd"}}, {"name": "b"}]},
        {"podCIDRv6": "fd00:10::/48", "serviceCIDRv6": "fd00:20::/108", "underlayCIDR": "172.30.0.0/24"},
        {"network": {"guard": False, "vni": 7, "port": 8472}},
    ],
)
def test_document_parses_back(spec: dict[str, Any]) -> None:
    """Writing the defaults out changes nothing."""
    cluster = parsed(**spec)
    assert parse_cluster(cluster.document()) == cluster


def test_named_nodes() -> None:
    """Nodes may have names, zones and labels."""
    assert parsed(nodes=[{"name": "a", "zone": "z1"}]).nodes == (NodeSpec("a", "z1"),)


def test_clusters_have_their_own_vni() -> None:
    """Two clusters on one underlay do not hear each other."""
    assert default_vni("one") != default_vni("two")


WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("nodes of a wrong type", {"nodes": "x"}, "spec.nodes", '"x" is not an integer or a list'),
    ("no nodes", {"nodes": 0}, "spec.nodes", ">= 1"),
    ("node without name", {"nodes": [{"zone": "a"}]}, "spec.nodes[0].name", "is required"),
    ("node twice", {"nodes": [{"name": "a"}, {"name": "a"}]}, "spec.nodes[1].name", "twice"),
    ("node's name", {"nodes": [{"name": "A b"}]}, "spec.nodes[0].name", "DNS label"),
    ("unknown field", {"podCidr": "10.0.0.0/8"}, "spec.podCidr", "no such field"),
    ("not a CIDR", {"podCIDR": "10.0.0/8"}, "spec.podCIDR", "not a CIDR"),
    ("host bits", {"podCIDR": "10.0.0.1/8"}, "spec.podCIDR", "host bits"),
    ("v6 as v4", {"podCIDR": "fd00::/48"}, "spec.podCIDR", "not an IPv4 CIDR"),
    ("reserved", {"podCIDR": "127.0.0.0/16"}, "spec.podCIDR", "reserved"),
    ("overlap", {"podCIDR": "10.96.0.0/12"}, "spec.serviceCIDR", "overlaps podCIDR"),
    ("underlay overlap", {"underlayCIDR": "10.244.0.0/24"}, "spec.underlayCIDR", "overlaps podCIDR"),
    ("too small", {"podCIDR": "10.0.0.0/24"}, "spec.podCIDR", "holds 1 node ranges"),
    ("mask too short", {"podCIDR": "10.0.0.0/25"}, "spec.nodeCIDRMask", "larger than the pod CIDR"),
    ("v6 services alone", {"serviceCIDRv6": "fd00::/108"}, "spec.serviceCIDRv6", "podCIDRv6"),
    ("port", {"network": {"port": 70000}}, "spec.network.port", "<= 65535"),
    ("plugin nobody has", {"network": {"plugin": "magic"}}, "spec.network.plugin", "not a network plugin"),
]


@pytest.mark.parametrize(("spec", "field", "sentence"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_wrong_documents(spec: dict[str, Any], field: str, sentence: str) -> None:
    """The error names the path and says what is wrong with it."""
    with pytest.raises(InvalidInput) as caught:
        parsed(**spec)
    assert caught.value.field == field
    assert str(caught.value).startswith(field)
    assert sentence in str(caught.value)


def test_planned_plugins_say_so() -> None:
    """A plugin that will come is not a typing error."""
    with pytest.raises(Unsupported, match="not supported yet"):
        parsed(network={"plugin": "calico"})


def test_schema_knows_the_fields() -> None:
    """Editors complete what the parser takes."""
    text = str(cluster_json_schema())
    assert all(field in text for field in ("podCIDRv6", "nodeCIDRMask", "dnsDomain", "guard"))
