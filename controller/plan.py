"""The plan: what one node should look like, compiled from the cluster's snapshot.

In: a `Snapshot`. Out: `ClusterState` as bytes, the same for every node and serialised once; and per node its `NodeConfig` and the
`PodState`s of its pods. Pure functions; `Planner` only remembers what it compiled, so that an unchanged pod is the same object and a
session can tell by identity what to send. A pod is planned once it is bound and has its addresses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from controller import views
from controller.images import program
from controller.peers import mesh
from controller.snapshot import Pod, Snapshot
from podwire.api.v1 import state_pb2 as state

RESTART_POLICIES = {
    "Always": state.RESTART_POLICY_ALWAYS,
    "OnFailure": state.RESTART_POLICY_ON_FAILURE,
    "Never": state.RESTART_POLICY_NEVER,
}
_UNPLANNED_METADATA = frozenset({"resourceVersion", "managedFields"})


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node's own part."""

    config: state.NodeConfig
    pods: dict[str, state.PodState]


def compile_cluster(snapshot: Snapshot) -> bytes:
    """The part that every node gets, serialised."""
    spec = snapshot.spec
    return state.ClusterState(
        cluster=spec.name,
        cluster_cidrs=[str(cidr) for cidr in spec.pod_cidrs],
        service_cidrs=[str(cidr) for cidr in spec.service_cidrs],
        dns_domain=spec.dns_domain,
        vni=spec.network.vni,
        vxlan_port=spec.network.port,
        guard=spec.network.guard,
        peers=mesh(spec.name, (node.view for node in snapshot.nodes.values())),
    ).SerializeToString(deterministic=True)


def compile_node(snapshot: Snapshot, node: str) -> NodePlan:
    """A node's own part, from nothing but the snapshot."""
    return Planner().node(snapshot, node)


class Planner:
    """Compiles pods when they change."""

    def __init__(self) -> None:
        self._compiled: dict[str, tuple[Pod, tuple[str, ...], state.PodState]] = {}

    def node(self, snapshot: Snapshot, node: str) -> NodePlan:
        """A node's own part; a pod whose state is as before is the object it was before."""
        known = snapshot.nodes.get(node)
        config = state.NodeConfig(node=node)
        if known is not None:
            config.pod_cidrs.extend(known.view.spec.pod_cidrs)
            config.generation = known.view.metadata.generation
        pods = {}
        for uid, pod in snapshot.bound.get(node, {}).items():
            addresses = snapshot.addresses(uid)
            if addresses:
                pods[uid] = self._pod(pod, addresses)
        return NodePlan(config, pods)

    def forget(self, uid: str) -> None:
        """The pod is gone."""
        self._compiled.pop(uid, None)

    def _pod(self, pod: Pod, addresses: tuple[str, ...]) -> state.PodState:
        before = self._compiled.get(pod.uid)
        if before is not None and before[0] is pod and before[1] == addresses:
            return before[2]
        compiled = compile_pod(pod.doc, pod.view, addresses)
        if before is not None and before[2] == compiled:
            compiled = before[2]
        self._compiled[pod.uid] = pod, addresses, compiled
        return compiled


def compile_pod(doc: dict[str, Any], pod: views.PodView, addresses: tuple[str, ...]) -> state.PodState:
    """One pod as its node must make it. Its generation is the object's, plus one once it is to go: both only ever rise."""
    metadata, spec = pod.metadata, pod.spec
    grace = metadata.deletion_grace_period_seconds
    return state.PodState(
        uid=metadata.uid,
        namespace=metadata.namespace,
        name=metadata.name,
        generation=metadata.generation + pod.terminating,
        addresses=addresses,
        hostname=spec.hostname or metadata.name[:63].rstrip("-."),
        subdomain=spec.subdomain,
        labels=metadata.labels or {},
        annotations=metadata.annotations or {},
        init_containers=[_container(container) for container in spec.init_containers or ()],
        containers=[_container(container) for container in spec.containers],
        restart_policy=RESTART_POLICIES[spec.restart_policy],
        termination_grace_s=spec.termination_grace_period_seconds if grace is None else grace,
        terminating=pod.terminating,
        host_network=spec.host_network,
        host_aliases=[
            state.HostAlias(address=alias.ip, hostnames=alias.hostnames or ()) for alias in spec.host_aliases or ()
        ],
        dns=_dns(spec),
        service_account=spec.service_account_name,
        manifest=manifest(doc),
    )


def manifest(doc: dict[str, Any]) -> bytes:
    """The document as it can be stored again after the store was lost: without status and revision."""
    metadata = {key: value for key, value in doc["metadata"].items() if key not in _UNPLANNED_METADATA}
    return msgspec.json.encode({**{key: doc[key] for key in doc if key != "status"}, "metadata": metadata})


def _container(container: views.Container) -> state.ContainerState:
    what = program(container.image, container.command or (), container.args or ())
    security = container.security_context
    capabilities = (security.capabilities if security else None) or views.Capabilities()
    return state.ContainerState(
        name=container.name,
        image=container.image,
        kind=what.kind,
        argv=what.argv,
        env=[variable for each in container.env or () if (variable := _variable(each)) is not None],
        working_dir=container.working_dir,
        ports=[
            state.ContainerPort(
                name=port.name, port=port.container_port, protocol=port.protocol, host_port=port.host_port or 0
            )
            for port in container.ports or ()
        ],
        readiness=_probe(container.readiness_probe, container),
        liveness=_probe(container.liveness_probe, container),
        startup=_probe(container.startup_probe, container),
        add_capabilities=capabilities.add or (),
        drop_capabilities=capabilities.drop or (),
        privileged=bool(security and security.privileged),
        pre_stop_exec=_pre_stop(container.lifecycle),
    )


def _variable(variable: views.EnvVar) -> state.EnvVar | None:
    """Literals and fields of the pod; values from ConfigMaps and Secrets, which do not exist here, are left unset."""
    source = variable.value_from
    if source is None:
        return state.EnvVar(name=variable.name, value=variable.value or "")
    if source.field_ref is None:
        return None
    return state.EnvVar(name=variable.name, field_path=source.field_ref.field_path)


def _pre_stop(lifecycle: views.Lifecycle | None) -> str:
    handler = lifecycle.pre_stop if lifecycle else None
    command = handler.exec.command if handler and handler.exec else None
    return msgspec.json.encode(command).decode() if command else ""


def _probe(probe: views.Probe | None, container: views.Container) -> state.Probe | None:
    if probe is None:
        return None
    compiled = state.Probe(
        initial_delay_s=probe.initial_delay_seconds,
        period_s=probe.period_seconds,
        timeout_s=probe.timeout_seconds,
        success_threshold=probe.success_threshold,
        failure_threshold=probe.failure_threshold,
    )
    if probe.http_get is not None:
        get = probe.http_get
        compiled.http_get.CopyFrom(
            state.HttpGet(
                path=get.path,
                port=_port(get.port, container),
                host=get.host,
                scheme=get.scheme,
                headers=[state.HttpHeader(name=each.name, value=each.value) for each in get.http_headers or ()],
            )
        )
    elif probe.tcp_socket is not None:
        compiled.tcp_port = _port(probe.tcp_socket.port, container)
    elif probe.exec is not None:
        compiled.exec.argv.extend(probe.exec.command or ())
    elif probe.grpc is not None:  # no image here speaks gRPC health: that the port is open is what can be asked
        compiled.tcp_port = int(probe.grpc.get("port", 0))
    return compiled


def _port(port: int | str, container: views.Container) -> int:
    if isinstance(port, int):
        return port
    return next((each.container_port for each in container.ports or () if each.name == port), 0)


def _dns(spec: views.PodSpec) -> state.DnsConfig:
    """The pod's own servers and options. Until the cluster has a DNS server, everything else is as on the node."""
    config = spec.dns_config or views.DnsConfig()
    return state.DnsConfig(
        nameservers=config.nameservers or (),
        searches=config.searches or (),
        options=[f"{each.name}:{each.value}" if each.value else each.name for each in config.options or ()],
    )
