"""Pure: what a pod's containers read about themselves. In: a pod's facts. Out: the text of its files, and expanded strings.

`hosts`, `resolv.conf` and `hostname` are bound over /etc's in every container (`helper/rootfs.c`) and read by the workload host.
Environment and arguments follow Kubernetes: `$(NAME)` is replaced by a variable defined before, `$$` is a dollar sign, an unknown
reference stays as it is; `fieldRef` paths are those of the downward API.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from podwire.errors import InvalidInput

MAX_SEARCH = 32  # glibc's and Kubernetes' limit
REFERENCE = re.compile(r"\$(\$|\(([^()]*)\))")
SUBSCRIPT = re.compile(r"(metadata\.(?:labels|annotations))\['([^']+)'\]")


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What a pod may know about itself through `fieldRef`."""

    name: str
    namespace: str
    uid: str
    node: str
    pod_ips: tuple[str, ...]
    host_ips: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    service_account: str = "default"


@dataclass(frozen=True, slots=True)
class Resolver:
    """A resolv.conf, taken apart."""

    nameservers: tuple[str, ...]
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def render_hosts(
    addresses: Sequence[str], hostname: str, *, fqdn: str = "", aliases: Iterable[tuple[str, Sequence[str]]] = ()
) -> str:
    """/etc/hosts: localhost, the pod's own addresses under its names, and the manifest's hostAliases."""
    names = "\t".join([*([fqdn] if fqdn and fqdn != hostname else []), hostname])
    own = "".join(f"{address}\t{names}\n" for address in addresses)
    added = "".join("\t".join([address, *hostnames]) + "\n" for address, hostnames in aliases)
    return (
        "# Written by podwire.\n"
        "127.0.0.1\tlocalhost\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::0\tip6-localnet\n"
        "fe00::0\tip6-mcastprefix\n"
        "fe00::1\tip6-allnodes\n"
        "fe00::2\tip6-allrouters\n" + own + (f"\n# From hostAliases.\n{added}" if added else "")
    )


def full_name(hostname: str, subdomain: str, namespace: str, dns_domain: str) -> str:
    """The name that a headless Service gives a pod with a subdomain; empty without one."""
    return f"{hostname}.{subdomain}.{namespace}.svc.{dns_domain}" if subdomain else ""


def render_resolv_conf(wanted: Resolver, node: Resolver) -> str:
    """/etc/resolv.conf: as the controller decided; without nameservers, what the node uses itself.

    A node's loopback nameservers are left out: in a pod that address is the pod's own.
    """
    nameservers, searches, options = wanted.nameservers, wanted.searches, wanted.options
    if not nameservers:
        nameservers = tuple(server for server in node.nameservers if not _is_loopback(server))
        searches = tuple(dict.fromkeys((*searches, *node.searches)))
        options = tuple(dict.fromkeys((*options, *node.options)))
    lines = [f"nameserver {server}" for server in nameservers]
    lines += [f"search {' '.join(searches[:MAX_SEARCH])}"] if searches else []
    lines += [f"options {' '.join(options)}"] if options else []
    return "".join(f"{line}\n" for line in lines)


def parse_resolv_conf(text: str) -> Resolver:
    """Reads a resolv.conf; the last `search` (or `domain`) counts, as for glibc."""
    nameservers: list[str] = []
    searches: tuple[str, ...] = ()
    options: list[str] = []
    for line in text.splitlines():
        words = re.split(r"[#;]", line, maxsplit=1)[0].split()
        match words:
            case ["nameserver", address, *_]:
                nameservers.append(address)
            case ["search" | "domain", *domains]:
                searches = tuple(domains)
            case ["options", *more]:
                options += more
            case _:
                pass
    return Resolver(tuple(nameservers), searches, tuple(options))


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replaces `$(NAME)`; `$$` becomes `$`, so `$$(NAME)` stays literal; a name that is not known stays as written."""

    def replacement(match: re.Match[str]) -> str:
        return "$" if match[1] == "$" else variables.get(match[2], match[0])

    return REFERENCE.sub(replacement, text)


def expand_environment(variables: Iterable[tuple[str, str, str]], facts: PodFacts) -> dict[str, str]:
    """Variables from (name, value, field path), in their order: each may refer to those before it. Raises InvalidInput."""
    known: dict[str, str] = {}
    for name, value, field_path in variables:
        known[name] = field_value(field_path, facts) if field_path else expand(value, known)
    return known


def field_value(path: str, facts: PodFacts) -> str:
    """One field of the downward API. Raises InvalidInput for paths that name none."""
    subscript = SUBSCRIPT.fullmatch(path)
    if subscript:
        of = facts.labels if subscript[1] == "metadata.labels" else facts.annotations
        return of.get(subscript[2], "")
    fields = {
        "metadata.name": facts.name,
        "metadata.namespace": facts.namespace,
        "metadata.uid": facts.uid,
        "metadata.labels": _lines(facts.labels),
        "metadata.annotations": _lines(facts.annotations),
        "spec.nodeName": facts.node,
        "spec.serviceAccountName": facts.service_account,
        "status.podIP": next(iter(facts.pod_ips), ""),
        "status.podIPs": ",".join(facts.pod_ips),
        "status.hostIP": next(iter(facts.host_ips), ""),
        "status.hostIPs": ",".join(facts.host_ips),
    }
    if path not in fields:
        raise InvalidInput(
            f'fieldRef "{path}" is not a field of the downward API',
            field="valueFrom.fieldRef.fieldPath",
            hint=f"one of {', '.join(fields)}",
        )
    return fields[path]


def _lines(values: Mapping[str, str]) -> str:
    return "\n".join(f'{key}="{value}"' for key, value in sorted(values.items()))


def _is_loopback(server: str) -> bool:
    try:
        return ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return False
