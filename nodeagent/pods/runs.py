"""Pure: a pod and one of its containers → the `ContainerRun` that a runner gets, and the files its containers read.

In: values. Out: the environment with its downward API fields, the command line with its `$(VAR)` references resolved, ports and paths;
hosts and resolv.conf. `files.py` knows the formats.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nodeagent.kernel.base import Sandbox
from nodeagent.pods.base import ContainerRun, RunId
from nodeagent.pods.files import (
    PodFacts,
    Resolver,
    expand,
    expand_environment,
    full_name,
    render_hosts,
    render_resolv_conf,
)
from nodeagent.pods.pod import Container, Pod


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What pods may know of their node and cluster."""

    name: str
    addresses: tuple[str, ...] = ()
    dns_domain: str = "cluster.local"
    resolver: Resolver = field(default_factory=lambda: Resolver(()))  # the node's own, for pods with dnsPolicy Default


def pod_facts(pod: Pod, node: NodeFacts) -> PodFacts:
    """What the pod may know of itself."""
    return PodFacts(
        name=pod.name,
        namespace=pod.namespace,
        uid=pod.uid,
        node=node.name,
        pod_ips=pod.addresses,
        host_ips=node.addresses,
        labels=dict(pod.labels),
        annotations=dict(pod.annotations),
        service_account=pod.service_account or "default",
    )


def pod_files(pod: Pod, node: NodeFacts) -> dict[str, str]:
    """The files bound over /etc's in every container of the pod, by name."""
    aliases = [(alias.address, alias.hostnames) for alias in pod.host_aliases]
    fqdn = full_name(pod.hostname, pod.subdomain, pod.namespace, node.dns_domain)
    wanted = Resolver(pod.nameservers, pod.searches, pod.resolver_options)
    return {
        "hosts": render_hosts(pod.addresses, pod.hostname, fqdn=fqdn, aliases=aliases),
        "resolv.conf": render_resolv_conf(wanted, node.resolver),
        "hostname": f"{pod.hostname}\n",
    }


def container_run(
    pod: Pod, container: Container, run: RunId, *, sandbox: Sandbox, directory: Path, files: Path, node: NodeFacts
) -> ContainerRun:
    """Everything a runner needs for this run; raises InvalidInput for a field path that is none."""
    variables = [(var.name, var.value, var.field_path) for var in container.env]
    values = expand_environment(variables, pod_facts(pod, node))
    return ContainerRun(
        id=run,
        program=container.program,
        argv=tuple(expand(word, values) for word in container.argv),
        env=tuple(values.items()),
        working_dir=container.working_dir,
        ports=container.ports,
        sandbox=sandbox,
        hostname=pod.hostname,
        files=files,
        directory=directory,
        add_capabilities=container.add_capabilities,
        drop_capabilities=container.drop_capabilities,
        privileged=container.privileged,
        pod=f"{pod.namespace}/{pod.name}",
        image=container.image,
    )
