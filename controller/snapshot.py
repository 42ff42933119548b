"""The cluster as the store has it at one revision, indexed for those who decide.

In: the store's entries at start, then its changes batch by batch. Out: pods, nodes, namespaces and allocations to look up, and for
each batch what it touched. All of it lives in one event loop: whoever reads without awaiting in between sees one revision.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from controller.ipam import ADDRESSES, CIDRS, DEFAULT_COOLDOWN_S, RESTING, Allocation, Held, Pools
from controller.objects.keys import ALLOCATIONS, OBJECTS, parse_allocation_key, parse_object_key
from controller.store.base import Change, Entry
from controller.views import NodeView, PodView
from podwire.model.cluster import ClusterSpec, parse_cluster

Doc = dict[str, Any]

_document = msgspec.json.Decoder(dict[str, Any])
_pod = msgspec.json.Decoder(PodView)
_node = msgspec.json.Decoder(NodeView)
_allocation = msgspec.json.Decoder(Allocation)


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod: as stored, and as read."""

    doc: Doc
    view: PodView
    revision: int

    @property
    def uid(self) -> str:
        """Its UID."""
        return self.view.metadata.uid

    @property
    def key(self) -> tuple[str, str]:
        """(namespace, name)."""
        return self.view.metadata.namespace, self.view.metadata.name

    @property
    def node(self) -> str:
        """The node it is bound to; empty when to none."""
        return self.view.spec.node_name


@dataclass(frozen=True, slots=True)
class Node:
    """A node: as stored, and as read."""

    doc: Doc
    view: NodeView
    revision: int


@dataclass(slots=True)
class Touched:
    """What a batch of changes was about."""

    pods: set[str] = field(default_factory=set)  # UIDs
    nodes: set[str] = field(default_factory=set)
    namespaces: set[str] = field(default_factory=set)
    bound: set[str] = field(default_factory=set)  # nodes whose pods changed
    cluster: bool = False
    freed: bool = False  # an address or range was given back


class Snapshot:
    """See the module's docstring. `spec` must be known before the first pod is read: it says which ranges there are."""

    def __init__(self, spec: ClusterSpec, cooldown_s: float = DEFAULT_COOLDOWN_S) -> None:
        self.spec = spec
        self.revision = 0
        self.pods: dict[str, Pod] = {}
        self.pod_uids: dict[tuple[str, str], str] = {}
        self.bound: dict[str, dict[str, Pod]] = {}
        self.nodes: dict[str, Node] = {}
        self.namespaces: dict[str, Doc] = {}
        self.held: dict[tuple[str, str], Held] = {}  # (pool, value) → who
        self.owned: dict[str, tuple[tuple[str, str], ...]] = {}  # owner → [(pool, value)], IPv4 first
        self.pools = Pools(spec.pod_cidrs, spec.node_masks, cooldown_s)

    def addresses(self, uid: str) -> tuple[str, ...]:
        """The addresses allocated to a pod, IPv4 first."""
        return tuple(value for pool, value in self.owned.get(uid, ()) if pool == ADDRESSES)

    def named_pod(self, namespace: str, name: str) -> Pod | None:
        """The pod of a name."""
        uid = self.pod_uids.get((namespace, name))
        return self.pods.get(uid) if uid else None

    def load(self, entries: Sequence[Entry], revision: int, now: float) -> Touched:
        """Becomes what a listing says; what is there no more is touched too."""
        present = {entry.key for entry in entries}
        touched = Touched(cluster=True)
        for key in self._keys() - present:
            self._forget(key, now, touched)
        for entry in sorted(entries, key=lambda entry: entry.revision):  # marks of releases: oldest first
            self._learn(entry.key, entry.value, entry.revision, now, touched)
        self.revision = revision
        return touched

    def advance(self, changes: Iterable[Change], revision: int, now: float) -> Touched:
        """Takes the changes of one or more revisions."""
        touched = Touched()
        for change in changes:
            if change.value is None:
                self._forget(change.key, now, touched)
            else:
                self._learn(change.key, change.value, change.revision, now, touched)
        self.revision = revision
        return touched

    def _keys(self) -> set[str]:
        keys = {f"{OBJECTS}pods/{namespace}/{name}" for namespace, name in self.pod_uids}
        keys |= {f"{OBJECTS}nodes/-/{name}" for name in self.nodes}
        keys |= {f"{OBJECTS}namespaces/-/{name}" for name in self.namespaces}
        return keys | {f"{ALLOCATIONS}{pool}/{value}" for pool, value in self.held}

    def _learn(self, key: str, value: bytes, revision: int, now: float, touched: Touched) -> None:
        if key.startswith(ALLOCATIONS):
            pool, what = parse_allocation_key(key)
            self._drop_allocation((pool, what))
            self._add_allocation((pool, what), Held(_allocation.decode(value), revision), touched)
        elif key.startswith(RESTING):
            what = key.removeprefix(RESTING).partition("/")[2]
            self.pools.released(what, now)
            touched.freed = True
        elif key.startswith(OBJECTS):
            resource, namespace, name = parse_object_key(key)
            self._learn_object(resource, (namespace, name), value, revision, touched)

    def _learn_object(self, resource: str, at: tuple[str, str], value: bytes, revision: int, touched: Touched) -> None:
        match resource:
            case "pods":
                pod = Pod(_document.decode(value), _pod.decode(value), revision)
                self._drop_pod(at, touched)
                self.pods[pod.uid] = pod
                self.pod_uids[at] = pod.uid
                touched.pods.add(pod.uid)
                if pod.node:
                    self.bound.setdefault(pod.node, {})[pod.uid] = pod
                    touched.bound.add(pod.node)
            case "nodes":
                before = self.nodes.get(at[1])
                node = self.nodes[at[1]] = Node(_document.decode(value), _node.decode(value), revision)
                touched.nodes.add(at[1])
                touched.cluster |= before is None or _mesh_part(before.view) != _mesh_part(node.view)
            case "namespaces":
                self.namespaces[at[1]] = _document.decode(value)
                touched.namespaces.add(at[1])
            case "clusters":
                self.spec = parse_cluster(_document.decode(value))
                touched.cluster = True

    def _forget(self, key: str, now: float, touched: Touched) -> None:
        if key.startswith(ALLOCATIONS):
            at = parse_allocation_key(key)
            self._drop_allocation(at)
            self.pools.released(at[1], now)
            touched.freed = True
        elif key.startswith(OBJECTS):
            resource, namespace, name = parse_object_key(key)
            if resource == "pods":
                self._drop_pod((namespace, name), touched)
            elif resource == "nodes" and self.nodes.pop(name, None) is not None:
                touched.nodes.add(name)
                touched.cluster = True
            elif resource == "namespaces":
                self.namespaces.pop(name, None)
                touched.namespaces.add(name)

    def _drop_pod(self, at: tuple[str, str], touched: Touched) -> None:
        uid = self.pod_uids.pop(at, "")
        pod = self.pods.pop(uid, None) if uid else None
        if pod is None:
            return
        touched.pods.add(pod.uid)
        if pod.node:
            self.bound.get(pod.node, {}).pop(pod.uid, None)
            touched.bound.add(pod.node)

    def _add_allocation(self, at: tuple[str, str], held: Held, touched: Touched) -> None:
        self.held[at] = held
        owner = held.allocation.owner
        self.owned[owner] = tuple(sorted((*self.owned.get(owner, ()), at), key=lambda each: ":" in each[1]))
        self.pools.held(at[1])
        if at[0] == ADDRESSES:
            touched.pods.add(owner)
            touched.bound.add(held.allocation.node)
        elif at[0] == CIDRS:
            touched.cluster = True

    def _drop_allocation(self, at: tuple[str, str]) -> None:
        held = self.held.pop(at, None)
        if held is None:
            return
        rest = tuple(each for each in self.owned.get(held.allocation.owner, ()) if each != at)
        if rest:
            self.owned[held.allocation.owner] = rest
        else:
            self.owned.pop(held.allocation.owner, None)


def _mesh_part(node: NodeView) -> tuple[Sequence[str], tuple[str, ...]]:
    """What of a node its peers depend on."""
    return node.spec.pod_cidrs, node.underlay_addresses
