"""The kernel as the agent sees it: what a node should hold, what it does hold, and the verbs that change it.

In: frozen values (below). Out: observations and the results of idempotent verbs. `linux.py` does it with netlink and nftables,
`fake.py` in memory; both pass `tests/kernel/contract.py`, and the fake answers "does this packet arrive?". Every verb is safe to
repeat; a batch verb returns one result per item, so that one bad pod does not hold up the others. Calls block: the agent runs them
on its wiring thread, the simulator inline. A node has exactly one Kernel, opened inside its network namespace and bound to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from podwire.errors import KernelError
from podwire.model.addresses import IPAddress, IPInterface, IPNetwork


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node: where it is, and what lies behind it."""

    node: str
    underlay: IPAddress
    pod_cidrs: tuple[IPNetwork, ...]
    vtep_mac: str


@dataclass(frozen=True, slots=True)
class NodeNetwork:
    """What the node itself should hold, whatever pods it has."""

    cluster: str
    node: str
    underlay_link: str
    underlay: IPAddress  # source of tunnelled packets
    node_addresses: tuple[IPAddress, ...]  # of every node of the mesh: traffic to them is not masqueraded
    cluster_cidrs: tuple[IPNetwork, ...]
    service_cidrs: tuple[IPNetwork, ...]
    pod_cidrs: tuple[IPNetwork, ...]  # this node's, one per family
    bridge_mac: str
    vtep_mac: str
    vni: int
    vxlan_port: int
    pod_mtu: int  # underlay MTU - 50 over IPv4, - 70 over IPv6
    guard: bool
    peers: tuple[Peer, ...]  # without this node


@dataclass(frozen=True, slots=True)
class PodLink:
    """How one pod is wired; all of it is decided before the first kernel call."""

    uid: str
    generation: int
    slot: str  # names the sandbox; see Sandbox
    name: str  # host end
    host_mac: str
    pod_mac: str
    addresses: tuple[IPInterface, ...]  # with the pod CIDR's prefix length, one per family
    gateways: tuple[IPAddress, ...]
    gateway_mac: str
    mtu: int
    guard: bool

    @property
    def alias(self) -> str:
        """What the host end's `ifalias` holds: answers "whose are you?" without the database."""
        return f"podwire {self.uid} {self.generation} {self.slot}"


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pause process and the namespaces it holds, pinned at `pin`. Its identity is (boot ID, inode, slot), never a PID or a path
    alone: both are reused.
    """

    slot: str  # 12 hex digits, made by the agent and durable before the sandbox exists
    pid: int
    start_time: int  # field 22 of /proc/PID/stat, in clock ticks: tells a reused PID
    netns_inode: int
    pin: str


@dataclass(frozen=True, slots=True)
class ObservedPodLink:
    """A host end of ours as it is, with what hangs on it."""

    name: str
    index: int
    uid: str
    generation: int
    slot: str
    up: bool
    on_bridge: bool
    host_mac: str
    mtu: int
    fdb: bool  # its static forwarding entry is there
    neighbours: frozenset[IPAddress]  # permanent neighbour entries on the bridge for its addresses
    guarded: frozenset[IPAddress]  # addresses whose guard elements are there


@dataclass(frozen=True, slots=True)
class ObservedPodEnd:
    """The inside of a sandbox: None for eth0's parts when there is no eth0."""

    slot: str
    eth0_mac: str | None
    eth0_up: bool
    lo_up: bool
    mtu: int
    addresses: frozenset[IPInterface]
    default_gateways: frozenset[IPAddress]
    gateway_neighbours: frozenset[IPAddress]


@dataclass(frozen=True, slots=True)
class ObservedPeer:
    """What there is towards one tunnel address: entries are grouped by the VTEP's MAC."""

    vtep_mac: str
    underlay: IPAddress | None  # of the FDB entry
    neighbours: frozenset[IPAddress]  # overlay addresses with a permanent neighbour entry to this MAC
    routes: frozenset[IPNetwork]  # pod CIDRs routed via those addresses


@dataclass(frozen=True, slots=True)
class Observed:
    """All that is ours in the node's network namespace, in one reading. `missing` names node-level objects that should always be
    there and are not, or not as asked ("bridge", "bridge address 10.244.1.1/24", "vxlan", "nft table ip podwire", "sysctl …"),
    given the NodeNetwork passed to observe.
    """

    missing: tuple[str, ...]
    peers: tuple[ObservedPeer, ...]
    pods: tuple[ObservedPodLink, ...]
    stray_guard: frozenset[str]  # host end names that guard elements mention and that do not exist
    pod_mtu: int


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one item of a batch failed."""

    error: KernelError


class Kernel(Protocol):
    """Node and pod networking. None of these starts a process."""

    def underlay(self) -> tuple[str, tuple[IPAddress, ...], int]:
        """Link name, addresses (first the one to tunnel from) and MTU of the underlay."""

    def capabilities(self) -> dict[str, tuple[bool, str]]:
        """What this kernel can do, probed and not assumed: name → (available, detail). Names: vxlan, bridge, nft-bridge, nft-ip,
        nft-ip6, bridge-nf, ipv6, sctp, wireguard, netem.
        """

    def observe(self, network: NodeNetwork) -> Observed:
        """One reading of everything of ours. Raises KernelError when a dump fails (an interrupted dump is retried inside)."""

    def observe_ends(self, sandboxes: Sequence[Sandbox]) -> list[ObservedPodEnd | Failure]:
        """The inside of sandboxes, one result each, in order."""

    def ensure_node(self, network: NodeNetwork) -> list[str]:
        """Bridge with gateway addresses, VXLAN device, sysctls and the constant nftables chains; returns what had to be changed,
        as sentences. Changes nothing that is already right. The nftables part is one transaction per family.
        """

    def ensure_peers(self, network: NodeNetwork, peers: Sequence[Peer]) -> list[Failure | None]:
        """FDB entry, permanent neighbours and onlink routes per peer, references before referents, in one batch."""

    def delete_peers(self, peers: Sequence[ObservedPeer]) -> list[Failure | None]:
        """The reverse, routes first; what is absent counts as deleted."""

    def wire(self, links: Sequence[PodLink], sandboxes: Sequence[Sandbox]) -> list[Failure | None]:
        """Gives each sandbox its eth0: veth made in place (no device is moved between namespaces), guard elements for the whole
        batch in one transaction before any pod end goes up, addresses, routes, permanent neighbours, then up. Repeating it on a
        half-wired or wrong pod makes it right.
        """

    def unwire(self, names: Sequence[str]) -> list[Failure | None]:
        """Fences pods by host end name: guard elements out and link down. The veth itself goes with its namespace (deleting
        devices one by one costs 18 ms each).
        """

    def delete_links(self, names: Sequence[str]) -> list[Failure | None]:
        """Deletes host ends that no sandbox holds any more (orphans of a crash); slow, and only for those."""

    def reset_guard(self, network: NodeNetwork, links: Sequence[PodLink]) -> None:
        """Makes the guard's sets hold exactly these pods, in one transaction."""

    def close(self) -> None:
        """Releases handles; changes nothing."""


class Sandboxes(Protocol):
    """Pause processes and the namespaces they hold. Implemented by the C helper's client (`spawner.py`) and by the fake."""

    def create(self, wanted: Sequence[tuple[str, str]]) -> list[Sandbox | Failure]:
        """Makes sandboxes from (slot, hostname) pairs: network, IPC and UTS namespaces, pinned, lo still down."""

    def adopt(self, sandbox: Sandbox, hostname: str) -> None:
        """Sets the hostname of a warm sandbox. Raises KernelError."""

    def existing(self) -> list[Sandbox]:
        """Every sandbox that exists now (pin and live pause process), from the run directory; dead pins are reported with pid 0."""

    def delete(self, sandboxes: Sequence[Sandbox]) -> list[Failure | None]:
        """Ends the pause processes and removes the pins; returns when nothing of ours refers to the namespaces any more."""

    def gone(self, sandbox: Sandbox) -> bool:
        """Whether the network namespace itself is gone (no other holder left)."""
