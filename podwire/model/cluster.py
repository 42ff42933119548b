"""The Cluster document (podwire.dev/v1alpha1): what `podwire up` makes.

In: the document as a dict, as YAML or JSON gave it. Out: a frozen `ClusterSpec` with every default filled in, or InvalidInput
with the path of the wrong field. Drivers read the nodes from it, the controller the address ranges; nothing here knows either.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from podwire.errors import InvalidInput, Unsupported
from podwire.model import names
from podwire.model.addresses import IPNetwork, overlaps, parse_cidr
from podwire.model.conversion import conversion_error

API_VERSION = "podwire.dev/v1alpha1"
KIND = "Cluster"
PLUGINS = ("bridge",)
PLANNED_PLUGINS = ("flannel", "calico", "weave", "cni")
MAX_NODES = 1000

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class NodeSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node: its name, its zone, and labels for its Node object."""

    name: str
    zone: str = ""
    labels: dict[str, str] = {}


class NetworkSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How pods are wired and nodes are joined."""

    plugin: str = "bridge"
    vni: Annotated[int, msgspec.Meta(ge=0, lt=2**24)] = 0
    """VXLAN network identifier; 0 takes one made from the cluster's name."""
    port: Port = 4789
    guard: bool = True
    """Pods may send from their own MAC and addresses only."""


class _Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """`spec` as written."""

    nodes: Annotated[int, msgspec.Meta(ge=1, le=MAX_NODES)] | list[NodeSpec] = 3
    pod_cidr: str = msgspec.field(default="10.244.0.0/16", name="podCIDR")
    pod_cidr_v6: str = msgspec.field(default="", name="podCIDRv6")
    service_cidr: str = msgspec.field(default="10.96.0.0/16", name="serviceCIDR")
    service_cidr_v6: str = msgspec.field(default="", name="serviceCIDRv6")
    node_cidr_mask: Annotated[int, msgspec.Meta(ge=8, le=29)] = msgspec.field(default=24, name="nodeCIDRMask")
    node_cidr_mask_v6: Annotated[int, msgspec.Meta(ge=16, le=120)] = msgspec.field(default=64, name="nodeCIDRMaskv6")
    network: NetworkSpec = NetworkSpec()
    dns_domain: str = "cluster.local"
    underlay_cidr: str = msgspec.field(default="", name="underlayCIDR")


class _Metadata(msgspec.Struct, frozen=True):
    name: str = "podwire"
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The whole document as written."""

    api_version: str
    kind: str
    metadata: _Metadata = _Metadata()
    spec: _Spec = _Spec()
    status: dict[str, Any] = {}


class ClusterSpec(msgspec.Struct, frozen=True):
    """A Cluster document with all defaults, checked."""

    name: str
    nodes: tuple[NodeSpec, ...]
    pod_cidrs: tuple[IPNetwork, ...]
    """One per family, IPv4 first."""
    service_cidrs: tuple[IPNetwork, ...]
    node_masks: tuple[int, ...]
    """Prefix length of one node's pod CIDR, in the order of `pod_cidrs`."""
    network: NetworkSpec
    dns_domain: str
    underlay_cidr: IPNetwork | None
    """None: the driver finds a free range."""

    def document(self) -> dict[str, Any]:
        """The Cluster document with every default written out; `parse_cluster` gives it back unchanged."""
        spec: dict[str, Any] = {
            "nodes": [msgspec.to_builtins(node) for node in self.nodes],
            "podCIDR": str(self.pod_cidrs[0]),
            "serviceCIDR": str(self.service_cidrs[0]),
            "nodeCIDRMask": self.node_masks[0],
            "network": msgspec.to_builtins(self.network),
            "dnsDomain": self.dns_domain,
        }
        if len(self.pod_cidrs) > 1:
            spec |= {"podCIDRv6": str(self.pod_cidrs[1]), "nodeCIDRMaskv6": self.node_masks[1]}
        if len(self.service_cidrs) > 1:
            spec["serviceCIDRv6"] = str(self.service_cidrs[1])
        if self.underlay_cidr is not None:
            spec["underlayCIDR"] = str(self.underlay_cidr)
        return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": self.name}, "spec": spec}


def default_vni(cluster: str) -> int:
    """A VNI of the cluster's own, so that two clusters on one underlay do not hear each other; never 0, 1 or 4096."""
    value = int.from_bytes(hashlib.sha256(f"{cluster}/vni".encode()).digest()[:3])
    return value if value not in (0, 1, 4096) else 7117


def node_names(count: int) -> tuple[str, ...]:
    """Names for nodes that the document only counts: node-1, node-2, …"""
    return tuple(f"node-{number}" for number in range(1, count + 1))


def cluster_json_schema() -> dict[str, Any]:
    """JSON Schema of the document, for editors."""
    schema = msgspec.json.schema(_Document)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "podwire Cluster", **schema}


def parse_cluster(doc: Mapping[str, Any]) -> ClusterSpec:
    """The checked specification of a Cluster document.

    Raises:
        InvalidInput: a field is missing, of the wrong type, out of range, or overlaps another; `field` is its path.
        Unsupported: the document asks for a network plugin that this version does not have.
    """
    if doc.get("kind") != KIND or doc.get("apiVersion") != API_VERSION:
        raise InvalidInput(
            f"kind: {doc.get('apiVersion')!r} {doc.get('kind')!r} is not a {API_VERSION} {KIND} document", field="kind"
        )
    try:
        document = msgspec.convert(dict(doc), _Document)
    except msgspec.ValidationError as error:
        raise conversion_error(error, doc) from error
    spec = document.spec
    name = names.dns_label(document.metadata.name, "metadata.name")
    _check_plugin(spec.network.plugin)
    nodes = _nodes(spec)
    pod_cidrs = _family_pair(spec.pod_cidr, spec.pod_cidr_v6, "podCIDR")
    service_cidrs = _family_pair(spec.service_cidr, spec.service_cidr_v6, "serviceCIDR")
    if len(service_cidrs) > len(pod_cidrs):
        raise InvalidInput("spec.serviceCIDRv6: needs spec.podCIDRv6 as well", field="spec.serviceCIDRv6")
    masks = (spec.node_cidr_mask, spec.node_cidr_mask_v6)[: len(pod_cidrs)]
    for cidr, mask, suffix in zip(pod_cidrs, masks, ("", "v6"), strict=False):
        _check_room(cidr, mask, len(nodes), suffix)
    underlay = parse_cidr(spec.underlay_cidr, "spec.underlayCIDR") if spec.underlay_cidr else None
    _check_overlaps(pod_cidrs, service_cidrs, underlay)
    network = spec.network if spec.network.vni else msgspec.structs.replace(spec.network, vni=default_vni(name))
    return ClusterSpec(
        name=name,
        nodes=nodes,
        pod_cidrs=pod_cidrs,
        service_cidrs=service_cidrs,
        node_masks=masks,
        network=network,
        dns_domain=names.dns_subdomain(spec.dns_domain, "spec.dnsDomain"),
        underlay_cidr=underlay,
    )


def _check_plugin(plugin: str) -> None:
    if plugin in PLUGINS:
        return
    if plugin in PLANNED_PLUGINS:
        raise Unsupported(f"spec.network.plugin: {plugin!r} is not supported yet", hint="use `plugin: bridge`")
    raise InvalidInput(
        f"spec.network.plugin: {plugin!r} is not a network plugin; there is {', '.join(PLUGINS)}",
        field="spec.network.plugin",
    )


def _nodes(spec: _Spec) -> tuple[NodeSpec, ...]:
    if isinstance(spec.nodes, int):
        return tuple(NodeSpec(name) for name in node_names(spec.nodes))
    if not 1 <= len(spec.nodes) <= MAX_NODES:
        raise InvalidInput(f"spec.nodes: a cluster has 1 to {MAX_NODES} nodes", field="spec.nodes")
    seen: set[str] = set()
    for index, node in enumerate(spec.nodes):
        path = f"spec.nodes[{index}]"
        names.dns_label(node.name, f"{path}.name")
        if node.name in seen:
            raise InvalidInput(f"{path}.name: {node.name!r} is there twice", field=f"{path}.name")
        seen.add(node.name)
        names.label_value(node.zone, f"{path}.zone")
        for key, value in node.labels.items():
            names.label_key(key, f"{path}.labels")
            names.label_value(value, f"{path}.labels[{key}]")
    return tuple(spec.nodes)


def _family_pair(v4: str, v6: str, field: str) -> tuple[IPNetwork, ...]:
    """The IPv4 range, and the IPv6 one where it is given."""
    wanted = [(v4, 4, f"spec.{field}")] + ([(v6, 6, f"spec.{field}v6")] if v6 else [])
    networks = []
    for value, version, path in wanted:
        network = parse_cidr(value, path)
        if network.version != version:
            raise InvalidInput(f"{path}: {value!r} is not an IPv{version} CIDR", field=path)
        _check_usable(network, path)
        networks.append(network)
    return tuple(networks)


def _check_usable(network: IPNetwork, path: str) -> None:
    """Ranges that the kernel treats specially cannot carry pods."""
    if network.is_loopback or network.is_multicast or network.is_link_local or network.is_unspecified:
        raise InvalidInput(f"{path}: {network} is a reserved range; use a private one", field=path)


def _check_room(cidr: IPNetwork, mask: int, nodes: int, suffix: str) -> None:
    path = f"spec.nodeCIDRMask{suffix}"
    if mask < cidr.prefixlen:
        raise InvalidInput(f"{path}: /{mask} is larger than the pod CIDR {cidr}", field=path)
    room = 2 ** (mask - cidr.prefixlen)
    if room < nodes:
        raise InvalidInput(
            f"spec.podCIDR{suffix}: {cidr} holds {room} node ranges of /{mask}, and there are {nodes} nodes",
            field=f"spec.podCIDR{suffix}",
            hint="use a larger pod CIDR, or a longer node mask",
        )


def _check_overlaps(pods: tuple[IPNetwork, ...], services: tuple[IPNetwork, ...], underlay: IPNetwork | None) -> None:
    ranges = [(f"spec.podCIDR{'v6' if net.version == 6 else ''}", net) for net in pods]
    ranges += [(f"spec.serviceCIDR{'v6' if net.version == 6 else ''}", net) for net in services]
    if underlay is not None:
        ranges.append(("spec.underlayCIDR", underlay))
    for (one_path, one), (other_path, other) in itertools.combinations(ranges, 2):
        if overlaps(one, other):
            raise InvalidInput(
                f"{other_path}: {other} overlaps {one_path.removeprefix('spec.')} {one}", field=other_path
            )
