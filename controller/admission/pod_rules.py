"""What a pod's values must be. In: a typed view. Out: nothing, or InvalidInput at the first wrong field. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from controller.views import Affinity, Container, DnsConfig, PodSpec, PodView, Probe
from podwire.errors import InvalidInput
from podwire.model.addresses import parse_address
from podwire.model.names import dns_label, dns_subdomain, label_key, label_value

RESTART_POLICIES = ("Always", "OnFailure", "Never")
DNS_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")
PROTOCOLS = ("TCP", "UDP", "SCTP")
OPERATORS = ("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")
SCHEMES = ("HTTP", "HTTPS")

_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([a-z0-9]|-(?!-)){0,13}[a-z0-9]?")
_SEARCH_DOMAIN = re.compile(r"[a-z0-9_]([-a-z0-9_.]{0,251}[a-z0-9_])?\.?")
_WORD = re.compile(r"[!-~]+")  # what stands between blanks in resolv.conf
_CAPABILITY = re.compile(r"[A-Z][A-Z_]*")


def check_pod(pod: PodView) -> None:
    """Raises InvalidInput at the first wrong field."""
    spec = pod.spec
    if spec.host_network:
        raise InvalidInput(
            "spec.hostNetwork: pods in the node's own network are not supported; leave it out", field="spec.hostNetwork"
        )
    _one_of(spec.restart_policy, RESTART_POLICIES, "spec.restartPolicy")
    _one_of(spec.dns_policy, DNS_POLICIES, "spec.dnsPolicy")
    _at_least(spec.termination_grace_period_seconds, 0, "spec.terminationGracePeriodSeconds")
    _check_names(spec)
    _check_dns(spec)
    _check_affinity(spec.affinity)
    if not spec.containers:
        raise InvalidInput("spec.containers: a pod needs at least one container", field="spec.containers")
    seen: set[str] = set()
    for path, container in _containers(spec):
        dns_label(container.name, f"{path}.name")
        if container.name in seen:
            raise InvalidInput(f"{path}.name: {container.name!r} is there twice", field=f"{path}.name")
        seen.add(container.name)
        if container.restart_policy is not None:
            raise InvalidInput(
                f"{path}.restartPolicy: containers with a policy of their own (sidecars) are not supported yet; list it under spec.containers",
                field=f"{path}.restartPolicy",
            )
        _check_container(container, path)


def refuse_nul(value: Any, path: str) -> None:
    """Raises InvalidInput for a string that no command line, environment or file name can hold."""
    match value:
        case dict():
            for key, each in value.items():
                refuse_nul(key, path)
                refuse_nul(each, f"{path}.{key}")
        case list():
            for index, each in enumerate(value):
                refuse_nul(each, f"{path}[{index}]")
        case str() if "\0" in value:
            raise InvalidInput(f"{path}: a NUL character cannot stand in a string", field=path)


def _containers(spec: PodSpec) -> Iterator[tuple[str, Container]]:
    for index, container in enumerate(spec.init_containers or ()):
        yield f"spec.initContainers[{index}]", container
    for index, container in enumerate(spec.containers):
        yield f"spec.containers[{index}]", container


def _check_names(spec: PodSpec) -> None:
    if spec.node_name:
        dns_subdomain(spec.node_name, "spec.nodeName")
    if spec.hostname:
        dns_label(spec.hostname, "spec.hostname")
    if spec.subdomain:
        dns_label(spec.subdomain, "spec.subdomain")
    _check_labels(spec.node_selector or {}, "spec.nodeSelector")
    for index, alias in enumerate(spec.host_aliases or ()):
        parse_address(alias.ip, f"spec.hostAliases[{index}].ip")
        for place, hostname in enumerate(alias.hostnames or ()):
            dns_subdomain(hostname, f"spec.hostAliases[{index}].hostnames[{place}]")


def _check_labels(labels: Mapping[str, str], path: str) -> None:
    for key, value in labels.items():
        label_key(key, path)
        label_value(value, f"{path}[{key}]")


def _check_dns(spec: PodSpec) -> None:
    config = spec.dns_config or DnsConfig()
    servers = config.nameservers or []
    for index, server in enumerate(servers):
        parse_address(server, f"spec.dnsConfig.nameservers[{index}]")
    for index, domain in enumerate(config.searches or ()):
        if domain != "." and not _SEARCH_DOMAIN.fullmatch(domain):
            here = f"spec.dnsConfig.searches[{index}]"
            raise InvalidInput(f"{here}: {domain!r} is not a DNS domain", field=here)
    for index, option in enumerate(config.options or ()):
        if not _WORD.fullmatch(option.name) or not _WORD.fullmatch(option.value or "-"):
            here = f"spec.dnsConfig.options[{index}]"
            raise InvalidInput(f"{here}: a name and a value are one word each", field=here)
    if spec.dns_policy == "None" and not servers:
        raise InvalidInput(
            "spec.dnsConfig.nameservers: at least one is needed with dnsPolicy None",
            field="spec.dnsConfig.nameservers",
        )


def _check_affinity(affinity: Affinity | None) -> None:
    required = affinity.node_affinity.required if affinity and affinity.node_affinity else None
    if required is None:
        return
    path = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
    if not required.node_selector_terms:
        raise InvalidInput(f"{path}: at least one term is needed", field=path)
    for index, term in enumerate(required.node_selector_terms):
        for place, requirement in enumerate(term.match_expressions or ()):
            here = f"{path}[{index}].matchExpressions[{place}]"
            label_key(requirement.key, f"{here}.key")
            _one_of(requirement.operator, OPERATORS, f"{here}.operator")
            if requirement.operator in ("In", "NotIn") and not requirement.values:
                raise InvalidInput(f"{here}.values: {requirement.operator} needs values", field=f"{here}.values")


def _check_container(container: Container, path: str) -> None:
    if not container.image.strip():
        raise InvalidInput(f"{path}.image: is required", field=f"{path}.image")
    if container.image != container.image.strip():
        raise InvalidInput(f"{path}.image: {container.image!r} has blanks around it", field=f"{path}.image")
    _check_ports(container, path)
    for index, variable in enumerate(container.env or ()):
        if not variable.name or "=" in variable.name or not variable.name.isprintable():
            raise InvalidInput(
                f"{path}.env[{index}].name: {variable.name!r} is not a variable name", field=f"{path}.env[{index}].name"
            )
    _check_capabilities(container, path)
    _check_probe(container.readiness_probe, container, f"{path}.readinessProbe", most_successes=None)
    _check_probe(container.liveness_probe, container, f"{path}.livenessProbe", most_successes=1)
    _check_probe(container.startup_probe, container, f"{path}.startupProbe", most_successes=1)


def _check_capabilities(container: Container, path: str) -> None:
    capabilities = container.security_context.capabilities if container.security_context else None
    if capabilities is None:
        return
    for field, values in (("add", capabilities.add), ("drop", capabilities.drop)):
        for index, value in enumerate(values or ()):
            if not _CAPABILITY.fullmatch(value):
                here = f"{path}.securityContext.capabilities.{field}[{index}]"
                raise InvalidInput(f"{here}: {value!r} is not a capability such as NET_ADMIN", field=here)


def _check_ports(container: Container, path: str) -> None:
    seen: set[str] = set()
    for index, port in enumerate(container.ports or ()):
        here = f"{path}.ports[{index}]"
        _port_number(port.container_port, f"{here}.containerPort")
        if port.host_port:
            _port_number(port.host_port, f"{here}.hostPort")
        _one_of(port.protocol, PROTOCOLS, f"{here}.protocol")
        if not port.name:
            continue
        if not _PORT_NAME.fullmatch(port.name):
            raise InvalidInput(
                f"{here}.name: {port.name!r} is not a port name: at most 15 lower-case letters, digits and '-', one of them a letter",
                field=f"{here}.name",
            )
        if port.name in seen:
            raise InvalidInput(f"{here}.name: {port.name!r} is there twice", field=f"{here}.name")
        seen.add(port.name)


def _check_probe(probe: Probe | None, container: Container, path: str, *, most_successes: int | None) -> None:
    if probe is None:
        return
    actions = [action for action in (probe.http_get, probe.tcp_socket, probe.exec, probe.grpc) if action is not None]
    if len(actions) != 1:
        raise InvalidInput(f"{path}: needs exactly one of httpGet, tcpSocket, exec and grpc", field=path)
    _at_least(probe.initial_delay_seconds, 0, f"{path}.initialDelaySeconds")
    for field, value in (
        ("periodSeconds", probe.period_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ):
        _at_least(value, 1, f"{path}.{field}")
    if most_successes is not None and probe.success_threshold > most_successes:
        raise InvalidInput(f"{path}.successThreshold: must be {most_successes}", field=f"{path}.successThreshold")
    if probe.http_get is not None:
        _check_probe_port(probe.http_get.port, container, f"{path}.httpGet.port")
        _one_of(probe.http_get.scheme, SCHEMES, f"{path}.httpGet.scheme")
    if probe.tcp_socket is not None:
        _check_probe_port(probe.tcp_socket.port, container, f"{path}.tcpSocket.port")
    if probe.exec is not None and not probe.exec.command:
        raise InvalidInput(f"{path}.exec.command: is required", field=f"{path}.exec.command")


def _check_probe_port(port: int | str, container: Container, path: str) -> None:
    if isinstance(port, int):
        _port_number(port, path)
    elif port not in {declared.name for declared in container.ports or ()}:
        raise InvalidInput(f"{path}: the container declares no port named {port!r}", field=path)


def _port_number(value: int, path: str) -> None:
    if not 1 <= value <= 65535:
        raise InvalidInput(f"{path}: {value} is not a port; use 1 to 65535", field=path)


def _at_least(value: int, least: int, path: str) -> None:
    if value < least:
        raise InvalidInput(f"{path}: {value} is less than {least}", field=path)


def _one_of(value: str, choices: tuple[str, ...], path: str) -> None:
    if value not in choices:
        raise InvalidInput(f"{path}: {value!r} is not one of {', '.join(choices)}", field=path)
