"""The kinds of the cluster: names, short names, groups, and whether they live in a namespace.

In: what a user typed (`po`, `Pod`, `endpointslices.discovery.k8s.io`) or a document's apiVersion and kind. Out: a `Kind`. The command
line resolves names here, so that the API speaks one spelling only: the plural resource.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from podwire.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object; `resource` is its plural, and what requests name."""

    kind: str
    resource: str
    singular: str
    short_names: tuple[str, ...]
    group: str  # empty: the core group
    version: str
    namespaced: bool

    @property
    def api_version(self) -> str:
        """As a document writes it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """Singular with its group, as `-o name` prints it: `pod`, `deployment.apps`."""
        return f"{self.singular}.{self.group}" if self.group else self.singular

    def spellings(self) -> frozenset[str]:
        """Everything a user may type for it, in lower case."""
        plain = {self.resource, self.singular, self.kind.lower(), *self.short_names}
        return frozenset(plain | {f"{name}.{self.group}" for name in plain} if self.group else plain)


KINDS: tuple[Kind, ...] = (
    Kind("Namespace", "namespaces", "namespace", ("ns",), "", "v1", namespaced=False),
    Kind("Node", "nodes", "node", ("no",), "", "v1", namespaced=False),
    Kind("Pod", "pods", "pod", ("po",), "", "v1", namespaced=True),
    Kind("Event", "events", "event", ("ev",), "", "v1", namespaced=True),
    Kind("Service", "services", "service", ("svc",), "", "v1", namespaced=True),
    Kind("Endpoints", "endpoints", "endpoints", ("ep",), "", "v1", namespaced=True),
    Kind("EndpointSlice", "endpointslices", "endpointslice", (), "discovery.k8s.io", "v1", namespaced=True),
    Kind("Deployment", "deployments", "deployment", ("deploy",), "apps", "v1", namespaced=True),
    Kind("ReplicaSet", "replicasets", "replicaset", ("rs",), "apps", "v1", namespaced=True),
    Kind("NetworkPolicy", "networkpolicies", "networkpolicy", ("netpol",), "networking.k8s.io", "v1", namespaced=True),
    Kind("Cluster", "clusters", "cluster", (), "podwire.dev", "v1alpha1", namespaced=False),
)

_BY_SPELLING = {spelling: kind for kind in KINDS for spelling in kind.spellings()}
_BY_DOCUMENT = {(kind.api_version, kind.kind): kind for kind in KINDS}


def kind_named(spelling: str) -> Kind:
    """The kind a user means; raises InvalidInput that lists what there is."""
    found = _BY_SPELLING.get(spelling.lower())
    if found is None:
        known = ", ".join(kind.resource for kind in KINDS)
        raise InvalidInput(f"{spelling!r} is not a resource type of this cluster", hint=f"known types: {known}")
    return found


def kind_of(document: dict[str, Any]) -> Kind | None:
    """The kind a document declares, or None where this table does not know it."""
    return _BY_DOCUMENT.get((str(document.get("apiVersion", "")), str(document.get("kind", ""))))
