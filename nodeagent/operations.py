"""The closed set of things the agent may do to its node's network: what `diff` decides and `apply` does.

Each operation names its whole effect; applying one twice is the same as once. Order is the list's: references before referents, and
removals last.
"""

from __future__ import annotations

from dataclasses import dataclass

from nodeagent.kernel.base import NodeNetwork, ObservedPeer, Peer, PodLink, Sandbox


@dataclass(frozen=True, slots=True)
class EnsureNode:
    """Bridge, tunnel device, sysctls and the constant chains."""

    network: NodeNetwork


@dataclass(frozen=True, slots=True)
class EnsurePeers:
    """Forwarding entry, neighbours and routes towards peers."""

    network: NodeNetwork
    peers: tuple[Peer, ...]


@dataclass(frozen=True, slots=True)
class MakeSandbox:
    """A pause process with its namespaces, for a pod that has none alive."""

    uid: str
    slot: str
    hostname: str


@dataclass(frozen=True, slots=True)
class AdoptSandbox:
    """Gives a sandbox that was made ahead (or half-adopted before a crash) its pod's hostname."""

    uid: str
    sandbox: Sandbox
    hostname: str


@dataclass(frozen=True, slots=True)
class WirePod:
    """eth0, addresses, routes, guard. The sandbox is the one observed, or None when a MakeSandbox before it makes it."""

    link: PodLink
    sandbox: Sandbox | None


@dataclass(frozen=True, slots=True)
class ResetGuard:
    """The guard's sets hold exactly these pods: heals stray or missing elements in one transaction."""

    network: NodeNetwork
    links: tuple[PodLink, ...]


@dataclass(frozen=True, slots=True)
class FencePod:
    """Guard elements out and link down: nothing passes any more."""

    uid: str
    name: str


@dataclass(frozen=True, slots=True)
class DropSandbox:
    """Ends the pause process and the pin; the namespace takes the veth along."""

    uid: str
    sandbox: Sandbox


@dataclass(frozen=True, slots=True)
class DeleteLinks:
    """Host ends whose sandbox is gone and which are still there."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeletePeers:
    """Peers that left the mesh."""

    peers: tuple[ObservedPeer, ...]


Operation = (
    EnsureNode
    | EnsurePeers
    | MakeSandbox
    | AdoptSandbox
    | WirePod
    | ResetGuard
    | FencePod
    | DropSandbox
    | DeleteLinks
    | DeletePeers
)
