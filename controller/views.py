"""Typed views of the documents that the controller reads; everything else in a document is carried along unread.

In: documents as dicts. Out: frozen structs, or InvalidInput with the path of a field of the wrong type. A field that is not here is
not read by the controller: admission accepts it (quantities, volumes, tolerations, …) and the store keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from podwire.model.conversion import conversion_error

T = TypeVar("T")


class Struct(msgspec.Struct, frozen=True, rename="camel"):
    """Base: camelCase in documents, unknown fields ignored."""


class ObjectMeta(Struct, frozen=True):
    """`metadata`."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None


class ContainerPort(Struct, frozen=True):
    """A declared port."""

    container_port: int
    name: str = ""
    protocol: str = "TCP"
    host_port: int | None = None
    host_ip: str | None = msgspec.field(default=None, name="hostIP")


class FieldRef(Struct, frozen=True):
    """A field of the pod as an environment variable's value."""

    field_path: str = ""


class EnvSource(Struct, frozen=True):
    """`valueFrom`; of its kinds only fieldRef is read."""

    field_ref: FieldRef | None = None


class EnvVar(Struct, frozen=True):
    """An environment variable."""

    name: str
    value: str | None = None
    value_from: EnvSource | None = None


class HttpHeader(Struct, frozen=True):
    """A header of a probe's request."""

    name: str
    value: str = ""


class HttpGet(Struct, frozen=True):
    """A probe's request."""

    port: int | str
    path: str = "/"
    host: str = ""
    scheme: str = "HTTP"
    http_headers: list[HttpHeader] | None = None


class TcpSocket(Struct, frozen=True):
    """A probe that connects."""

    port: int | str
    host: str = ""


class ExecAction(Struct, frozen=True):
    """A command run in the container."""

    command: list[str] | None = None


class Probe(Struct, frozen=True):
    """Readiness, liveness or startup."""

    http_get: HttpGet | None = None
    tcp_socket: TcpSocket | None = None
    exec: ExecAction | None = None
    grpc: dict[str, Any] | None = None
    initial_delay_seconds: int = 0
    period_seconds: int = 10
    timeout_seconds: int = 1
    success_threshold: int = 1
    failure_threshold: int = 3


class Handler(Struct, frozen=True):
    """A lifecycle hook; only exec is read."""

    exec: ExecAction | None = None


class Lifecycle(Struct, frozen=True):
    """Hooks of a container's life."""

    pre_stop: Handler | None = None


class Capabilities(Struct, frozen=True):
    """Linux capabilities without their CAP_ prefix."""

    add: list[str] | None = None
    drop: list[str] | None = None


class SecurityContext(Struct, frozen=True):
    """What of a container's security context is read."""

    capabilities: Capabilities | None = None
    privileged: bool | None = None


class Container(Struct, frozen=True):
    """A container or init container."""

    name: str
    image: str = ""
    command: list[str] | None = None
    args: list[str] | None = None
    env: list[EnvVar] | None = None
    working_dir: str = ""
    ports: list[ContainerPort] | None = None
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle | None = None
    security_context: SecurityContext | None = None
    restart_policy: str | None = None


class Requirement(Struct, frozen=True):
    """One term of a node affinity."""

    key: str
    operator: str
    values: list[str] | None = None


class NodeTerm(Struct, frozen=True):
    """All expressions of a term must hold; any one term suffices."""

    match_expressions: list[Requirement] | None = None
    match_fields: list[Requirement] | None = None


class NodeSelector(Struct, frozen=True):
    """`requiredDuringSchedulingIgnoredDuringExecution`."""

    node_selector_terms: list[NodeTerm]


class NodeAffinity(Struct, frozen=True):
    """Hard node affinity; preferences are accepted and not read."""

    required: NodeSelector | None = msgspec.field(default=None, name="requiredDuringSchedulingIgnoredDuringExecution")


class Affinity(Struct, frozen=True):
    """`spec.affinity`."""

    node_affinity: NodeAffinity | None = None


class HostAlias(Struct, frozen=True):
    """A line of the pod's /etc/hosts."""

    ip: str
    hostnames: list[str] | None = None


class DnsOption(Struct, frozen=True):
    """An option of the pod's resolv.conf."""

    name: str
    value: str | None = None


class DnsConfig(Struct, frozen=True):
    """`spec.dnsConfig`."""

    nameservers: list[str] | None = None
    searches: list[str] | None = None
    options: list[DnsOption] | None = None


class PodSpec(Struct, frozen=True):
    """What of a pod's spec is read."""

    containers: list[Container]
    init_containers: list[Container] | None = None
    node_name: str = ""
    node_selector: dict[str, str] | None = None
    affinity: Affinity | None = None
    restart_policy: str = "Always"
    termination_grace_period_seconds: int = 30
    hostname: str = ""
    subdomain: str = ""
    host_network: bool = False
    host_aliases: list[HostAlias] | None = None
    dns_policy: str = "ClusterFirst"
    dns_config: DnsConfig | None = None
    service_account_name: str = "default"


class PodView(Struct, frozen=True):
    """A pod."""

    metadata: ObjectMeta
    spec: PodSpec

    @property
    def terminating(self) -> bool:
        """Whether its deletion was asked for."""
        return self.metadata.deletion_timestamp is not None


class NodeSpecView(Struct, frozen=True):
    """What of a node's spec is read."""

    unschedulable: bool = False
    pod_cidr: str = msgspec.field(default="", name="podCIDR")
    pod_cidrs: list[str] = msgspec.field(default_factory=list, name="podCIDRs")


class Condition(Struct, frozen=True):
    """One condition of a status."""

    type: str
    status: str = "Unknown"
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None


class Address(Struct, frozen=True):
    """One address of a node."""

    type: str
    address: str


class NodeStatusView(Struct, frozen=True):
    """What of a node's status is read."""

    conditions: list[Condition] = []
    addresses: list[Address] = []


class NodeView(Struct, frozen=True):
    """A node."""

    metadata: ObjectMeta
    spec: NodeSpecView = NodeSpecView()
    status: NodeStatusView = NodeStatusView()

    @property
    def ready(self) -> bool:
        """Whether its Ready condition is true."""
        return any(condition.type == "Ready" and condition.status == "True" for condition in self.status.conditions)

    @property
    def underlay_addresses(self) -> tuple[str, ...]:
        """Where the node is reached, the address to tunnel to first."""
        return tuple(address.address for address in self.status.addresses if address.type == "InternalIP")

    @property
    def labels(self) -> Mapping[str, str]:
        """Its labels."""
        return self.metadata.labels or {}


def view(kind: type[T], doc: Mapping[str, Any]) -> T:
    """A typed view of a document.

    Raises:
        InvalidInput: a field has the wrong type; the sentence starts with its path.
    """
    try:
        return msgspec.convert(doc, kind)
    except msgspec.ValidationError as error:
        raise conversion_error(error, doc) from error
