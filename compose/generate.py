"""Generates the compose document of a cluster; pure.

In: a `ClusterSpec` and what the engine allows (`Options`). Out: a dict that compose v1 and v2 both read, written as JSON (which is YAML) by
the docker driver. One service and one named volume per node, so that nodes have names and their own state; one network. Nothing of the
host is mounted, no Docker socket is inside, and only the controller's port is published, on the loopback address.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from podwire.errors import InvalidInput
from podwire.model.addresses import IPNetwork
from podwire.model.cluster import ClusterSpec, NodeSpec

CLUSTER_LABEL = "podwire.cluster"
ROLE_LABEL = "podwire.role"
NODE_LABEL = "podwire.node"
CONTROLLER = "controller"  # its service, host name and role
NODE = "node"
NETWORK = "underlay"
CONTROL_PORT, JOIN_PORT = 7443, 7444
CONTROLLER_STATE = "/var/lib/controller"
CONTROLLER_USER = "65532:65532"
NODE_STATE = "/var/lib/podwire"
READY = "/run/podwire/ready"  # exists while controller or agent do their work


@dataclass(frozen=True, slots=True)
class Options:
    """What the engine grants and where the network may lie."""

    image: str
    subnets: tuple[IPNetwork, ...]
    privileged: bool = True
    devices: tuple[str, ...] = ()  # of the engine's machine, for restricted nodes


def project(cluster: str) -> str:
    """The compose project of a cluster: also the prefix of its containers, volumes and network."""
    return "podwire" if cluster == "podwire" else f"podwire-{cluster}"


def container_name(cluster: str, name: str) -> str:
    """The container of a node, or of the controller: what `docker exec` wants."""
    return f"{project(cluster)}-{name}"


def volume_name(cluster: str, name: str) -> str:
    """The volume that holds the state of a node, or of the controller."""
    return f"{project(cluster)}-{name}"


def compose_document(spec: ClusterSpec, options: Options) -> dict[str, Any]:
    """The cluster as compose wants it; raises InvalidInput for a node that takes the controller's name."""
    names = [CONTROLLER, *(node.name for node in spec.nodes)]
    for index, name in enumerate(names[1:]):
        if name == CONTROLLER:
            field = f"spec.nodes[{index}].name"
            raise InvalidInput(f"{field}: {CONTROLLER!r} is the controller's own name", field=field)
    services = {CONTROLLER: _controller(spec, options)}
    services |= {node.name: _node(spec, node, options) for node in spec.nodes}
    labels = {CLUSTER_LABEL: spec.name}
    return {
        "services": services,
        "networks": {NETWORK: _network(spec, options)},
        "volumes": {_volume(name): {"name": volume_name(spec.name, name), "labels": labels} for name in names},
    }


def _volume(name: str) -> str:
    """Its key in the document: never a single letter, which compose would read as a drive of Windows."""
    return f"{name}-state"


def _service(spec: ClusterSpec, options: Options, name: str, role: str) -> dict[str, Any]:
    """What controller and nodes have in common."""
    return {
        "image": options.image,
        "pull_policy": "never",
        "container_name": container_name(spec.name, name),
        "hostname": name,
        "command": [role],
        "labels": {CLUSTER_LABEL: spec.name, ROLE_LABEL: role},
        "networks": [NETWORK],
        "tmpfs": ["/run"],
        "restart": "unless-stopped",
        "stop_grace_period": "2s",
        "healthcheck": {
            "test": ["CMD", "test", "-e", READY],
            "interval": "2s",
            "timeout": "3s",
            "retries": 30,
        },
    }


def _controller(spec: ClusterSpec, options: Options) -> dict[str, Any]:
    """Decides and never touches a namespace: so no rights, no root, and nothing to write but its state."""
    service = _service(spec, options, CONTROLLER, CONTROLLER)
    # A tmpfs takes the mode of the directory it covers, and the image's /run is root's.
    service["tmpfs"] = ["/run:uid=65532,gid=65532,mode=0755", "/tmp"]  # noqa: S108 - the container's
    return service | {
        "environment": {"PODWIRE_CLUSTER": spec.name},
        "user": CONTROLLER_USER,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "read_only": True,
        "volumes": [f"{_volume(CONTROLLER)}:{CONTROLLER_STATE}"],
        "ports": [f"127.0.0.1::{CONTROL_PORT}"],
    }


def _node(spec: ClusterSpec, node: NodeSpec, options: Options) -> dict[str, Any]:
    service = _service(spec, options, node.name, NODE)
    service["labels"] |= {NODE_LABEL: node.name}
    service["volumes"] = [f"{_volume(node.name)}:{NODE_STATE}"]
    if options.privileged:
        return service | {"privileged": True}
    return service | {
        "cap_add": ["NET_ADMIN", "SYS_ADMIN"],
        "security_opt": ["seccomp=unconfined", "apparmor=unconfined"],
        "devices": [f"{device}:{device}" for device in options.devices],
    }


def _network(spec: ClusterSpec, options: Options) -> dict[str, Any]:
    # The first address is the host's end of the bridge: given, since engines differ in what they choose themselves.
    pools = [{"subnet": str(subnet), "gateway": str(subnet[1])} for subnet in options.subnets]
    network: dict[str, Any] = {"labels": {CLUSTER_LABEL: spec.name}, "ipam": {"config": pools}}
    if any(isinstance(subnet, ipaddress.IPv6Network) for subnet in options.subnets):
        network["enable_ipv6"] = True
    return network
