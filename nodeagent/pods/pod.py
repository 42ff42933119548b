"""A pod as its life cycle reads it: frozen values, parsed once from the plan's `PodState`.

In: protobuf `PodState` (desired). Out: `Pod` with its containers and probes, absent fields replaced by Kubernetes' defaults, so that
`lifecycle.py` and `probes.py` never see a message. Nothing is validated here: the controller's admission did that.
"""

from __future__ import annotations

from dataclasses import dataclass

from nodeagent.pods.base import Port
from podwire.api.v1 import state_pb2 as state

BUILT_IN, PROCESS, STAND_IN = "built-in", "process", "stand-in"
ALWAYS, ON_FAILURE, NEVER = "Always", "OnFailure", "Never"

_KINDS = {
    state.CONTAINER_KIND_BUILT_IN: BUILT_IN,
    state.CONTAINER_KIND_PROCESS: PROCESS,
    state.CONTAINER_KIND_STAND_IN: STAND_IN,
}
KIND_NUMBERS = {kind: number for number, kind in _KINDS.items()}
_POLICIES = {
    state.RESTART_POLICY_ALWAYS: ALWAYS,
    state.RESTART_POLICY_ON_FAILURE: ON_FAILURE,
    state.RESTART_POLICY_NEVER: NEVER,
}


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """GET; 200 to 399 is success. An empty host means the pod's own address."""

    path: str
    port: int
    host: str
    scheme: str
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TcpCheck:
    """A connection that opens is success."""

    port: int


@dataclass(frozen=True, slots=True)
class ExecCheck:
    """A command in the container; exit code 0 is success."""

    argv: tuple[str, ...]


Check = HttpCheck | TcpCheck | ExecCheck


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """What to check, how often, and how many answers in a row change the verdict."""

    check: Check
    initial_delay_s: float = 0
    period_s: float = 10
    timeout_s: float = 1
    success_threshold: int = 1
    failure_threshold: int = 3


@dataclass(frozen=True, slots=True)
class EnvVar:
    """`field_path` is a downward API reference, or empty for a literal value."""

    name: str
    value: str
    field_path: str = ""


@dataclass(frozen=True, slots=True)
class Container:
    """One container as the plan wants it. `argv` still holds its `$(VAR)` references."""

    name: str
    image: str
    kind: str
    argv: tuple[str, ...]
    env: tuple[EnvVar, ...] = ()
    working_dir: str = ""
    ports: tuple[Port, ...] = ()
    readiness: ProbeSpec | None = None
    liveness: ProbeSpec | None = None
    startup: ProbeSpec | None = None
    add_capabilities: tuple[str, ...] = ()
    drop_capabilities: tuple[str, ...] = ()
    privileged: bool = False

    @property
    def program(self) -> str:
        """What `ContainerRun.program` says: a built-in's name, "stand-in" or "process"."""
        return self.argv[0] if self.kind == BUILT_IN and self.argv else self.kind


@dataclass(frozen=True, slots=True)
class HostAlias:
    """A further line of /etc/hosts."""

    address: str
    hostnames: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of this node."""

    uid: str
    namespace: str
    name: str
    generation: int
    addresses: tuple[str, ...]
    hostname: str
    subdomain: str
    labels: tuple[tuple[str, str], ...]
    annotations: tuple[tuple[str, str], ...]
    init_containers: tuple[Container, ...]
    containers: tuple[Container, ...]
    restart_policy: str
    termination_grace_s: int
    terminating: bool
    host_network: bool
    host_aliases: tuple[HostAlias, ...]
    nameservers: tuple[str, ...]
    searches: tuple[str, ...]
    resolver_options: tuple[str, ...]
    service_account: str

    def container(self, name: str) -> Container | None:
        """The container or init container of that name."""
        return next((one for one in (*self.containers, *self.init_containers) if one.name == name), None)


def pod_from_proto(message: state.PodState) -> Pod:
    """The pod that a `PodState` describes."""
    return Pod(
        uid=message.uid,
        namespace=message.namespace,
        name=message.name,
        generation=message.generation,
        addresses=tuple(message.addresses),
        hostname=message.hostname or message.name,
        subdomain=message.subdomain,
        labels=tuple(sorted(message.labels.items())),
        annotations=tuple(sorted(message.annotations.items())),
        init_containers=tuple(map(_container, message.init_containers)),
        containers=tuple(map(_container, message.containers)),
        restart_policy=_POLICIES.get(message.restart_policy, ALWAYS),
        termination_grace_s=message.termination_grace_s,
        terminating=message.terminating,
        host_network=message.host_network,
        host_aliases=tuple(HostAlias(alias.address, tuple(alias.hostnames)) for alias in message.host_aliases),
        nameservers=tuple(message.dns.nameservers),
        searches=tuple(message.dns.searches),
        resolver_options=tuple(message.dns.options),
        service_account=message.service_account,
    )


def _container(message: state.ContainerState) -> Container:
    return Container(
        name=message.name,
        image=message.image,
        kind=_KINDS.get(message.kind, STAND_IN),
        argv=tuple(message.argv),
        env=tuple(EnvVar(var.name, var.value, var.field_path) for var in message.env),
        working_dir=message.working_dir,
        ports=tuple(Port(port.port, port.protocol or "TCP") for port in message.ports),
        readiness=_probe(message.readiness) if message.HasField("readiness") else None,
        liveness=_probe(message.liveness) if message.HasField("liveness") else None,
        startup=_probe(message.startup) if message.HasField("startup") else None,
        add_capabilities=tuple(message.add_capabilities),
        drop_capabilities=tuple(message.drop_capabilities),
        privileged=message.privileged,
    )


def _probe(message: state.Probe) -> ProbeSpec | None:
    check: Check
    match message.WhichOneof("action"):
        case "http_get":
            get = message.http_get
            headers = tuple((header.name, header.value) for header in get.headers)
            check = HttpCheck(get.path or "/", get.port, get.host, (get.scheme or "HTTP").upper(), headers)
        case "tcp_port":
            check = TcpCheck(message.tcp_port)
        case "exec":
            check = ExecCheck(tuple(message.exec.argv))
        case _:
            return None
    return ProbeSpec(
        check,
        initial_delay_s=message.initial_delay_s,
        period_s=message.period_s or 10,
        timeout_s=message.timeout_s or 1,
        success_threshold=message.success_threshold or 1,
        failure_threshold=message.failure_threshold or 3,
    )
