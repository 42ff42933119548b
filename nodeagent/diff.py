"""What is missing, and what is too much: (desired, observed) → operations. Pure.

In: a `View`: the network and pods the controller wants, and one reading of the kernel. Out: operations in an order that is safe to
stop anywhere in: node first, then peers; sandboxes that are dead or replaced, new sandboxes, wiring; then fences, sandboxes and links
that must go, then peers. Only the missing
difference is named, so the diff of a node that is right is empty. What is unknown is left alone unless `may_sweep`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nodeagent.kernel.base import (
    NodeNetwork,
    Observed,
    ObservedPeer,
    ObservedPodEnd,
    ObservedPodLink,
    Peer,
    PodLink,
    Sandbox,
)
from nodeagent.operations import (
    AdoptSandbox,
    DeleteLinks,
    DeletePeers,
    DropSandbox,
    EnsureNode,
    EnsurePeers,
    FencePod,
    MakeSandbox,
    Operation,
    ResetGuard,
    WirePod,
)
from podwire.api.v1 import state_pb2 as state
from podwire.model import names
from podwire.model.addresses import IPAddress, IPNetwork, gateway_address, vtep_address


@dataclass(frozen=True, slots=True)
class View:
    """Everything the decision depends on."""

    network: NodeNetwork
    pods: Mapping[str, PodLink]  # wanted, by UID; `slot` is filled in
    hostnames: Mapping[str, str]
    leaving: frozenset[str]  # UIDs whose containers are gone and whose sandbox must go
    observed: Observed
    sandboxes: tuple[Sandbox, ...]
    ends: Mapping[str, ObservedPodEnd] = field(
        default_factory=dict
    )  # by slot; a slot that is not here was not looked at
    owners: Mapping[str, str] = field(default_factory=dict)  # slot → UID; "" for a warm one
    may_sweep: bool = False
    assumed: frozenset[str] = frozenset()  # UIDs that are right, though the reading is older than their wiring
    cleaning: frozenset[str] = (
        frozenset()
    )  # slots dropped a moment ago: the kernel is taking their links away by itself


def node_network(
    cluster: state.ClusterState, node: state.NodeConfig, *, link: str, underlay: IPAddress, underlay_mtu: int
) -> NodeNetwork:
    """The node's network as the plan and its underlay make it. Peers without an address in the underlay's family are left out:
    they cannot be reached yet.
    """
    overhead = 50 if underlay.version == 4 else 70  # outer Ethernet 14 + IP 20/40 + UDP 8 + VXLAN 8
    peers = []
    everyone: list[IPAddress] = []
    for peer in cluster.peers:
        addresses = [ipaddress.ip_address(text) for text in peer.underlay_addresses]
        everyone += addresses
        reachable = next((address for address in addresses if address.version == underlay.version), None)
        if peer.node != node.node and reachable is not None and peer.pod_cidrs:
            peers.append(Peer(peer.node, reachable, _networks(peer.pod_cidrs), peer.vtep_mac))
    return NodeNetwork(
        cluster=cluster.cluster,
        node=node.node,
        underlay_link=link,
        underlay=underlay,
        node_addresses=tuple(sorted(everyone, key=lambda address: (address.version, int(address)))),
        cluster_cidrs=_networks(cluster.cluster_cidrs),
        service_cidrs=_networks(cluster.service_cidrs),
        pod_cidrs=_networks(node.pod_cidrs),
        bridge_mac=names.bridge_mac(cluster.cluster, node.node),
        vtep_mac=names.vtep_mac(cluster.cluster, node.node),
        vni=cluster.vni,
        vxlan_port=cluster.vxlan_port,
        pod_mtu=underlay_mtu - overhead,
        guard=cluster.guard,
        peers=tuple(peers),
    )


def _networks(texts: Iterable[str]) -> tuple[IPNetwork, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


def pod_link(network: NodeNetwork, pod: state.PodState, slot: str) -> PodLink:
    """How a pod is wired: a pure function of the plan and its slot."""
    cidrs = {cidr.version: cidr for cidr in network.pod_cidrs}
    addresses = [ipaddress.ip_address(text) for text in pod.addresses]
    addresses = [address for address in addresses if address.version in cidrs]
    return PodLink(
        uid=pod.uid,
        generation=pod.generation,
        slot=slot,
        name=names.pod_link(network.cluster, pod.uid),
        host_mac=names.host_mac(network.cluster, pod.uid),
        pod_mac=names.pod_mac(network.cluster, pod.uid),
        addresses=tuple(
            ipaddress.ip_interface(f"{address}/{cidrs[address.version].prefixlen}") for address in addresses
        ),
        gateways=tuple(gateway_address(cidrs[address.version]) for address in addresses),
        gateway_mac=network.bridge_mac,
        mtu=network.pod_mtu,
        guard=network.guard,
    )


def diff(view: View) -> list[Operation]:
    """The operations that make the node what it should be; empty when it is."""
    replaced, surplus = _sandboxes_surplus(view)
    return [
        *_node(view),
        *_peers_missing(view),
        *replaced,
        *_pods_missing(view),
        *_guard(view),
        *surplus,
        *_links_surplus(view),
        *_peers_surplus(view),
    ]


def _node(view: View) -> list[Operation]:
    return [EnsureNode(view.network)] if view.observed.missing else []


def _wanted_peer(peer: Peer) -> ObservedPeer:
    return ObservedPeer(
        vtep_mac=peer.vtep_mac,
        underlay=peer.underlay,
        neighbours=frozenset(vtep_address(cidr) for cidr in peer.pod_cidrs),
        routes=frozenset(peer.pod_cidrs),
    )


def _peers_missing(view: View) -> list[Operation]:
    seen = {peer.vtep_mac: peer for peer in view.observed.peers}
    missing = tuple(peer for peer in view.network.peers if seen.get(peer.vtep_mac) != _wanted_peer(peer))
    return [EnsurePeers(view.network, missing)] if missing else []


def _peers_surplus(view: View) -> list[Operation]:
    # The list of peers is part of every plan, whole: a peer that is not in it has left, snapshot or not.
    wanted = {peer.vtep_mac for peer in view.network.peers}
    surplus = tuple(peer for peer in view.observed.peers if peer.vtep_mac not in wanted)
    return [DeletePeers(surplus)] if surplus else []


def _pods_missing(view: View) -> list[Operation]:
    links = {link.name: link for link in view.observed.pods}
    alive = {sandbox.slot: sandbox for sandbox in view.sandboxes if sandbox.pid}
    operations: list[Operation] = []
    for uid, link in view.pods.items():
        sandbox = alive.get(link.slot)
        if uid in view.assumed and sandbox is not None:
            continue
        if sandbox is None:
            operations.append(MakeSandbox(uid, link.slot, view.hostnames.get(uid, "")))
        elif is_wired(link, links.get(link.name), view.ends.get(link.slot)):
            continue
        else:
            operations.append(AdoptSandbox(uid, sandbox, view.hostnames.get(uid, "")))
        operations.append(WirePod(link, sandbox))
    return operations


def is_wired(link: PodLink, seen: ObservedPodLink | None, end: ObservedPodEnd | None) -> bool:
    """Whether a pod is wired as it should be. An end that was not looked at counts as right. The generation may differ: it also
    rises for changes that have nothing to do with wiring, and stands in the alias for people and for adoption only.
    """
    if seen is None or seen.uid != link.uid or seen.slot != link.slot:
        return False
    addresses = frozenset(interface.ip for interface in link.addresses)
    outside = seen.up and seen.on_bridge and seen.host_mac == link.host_mac and seen.mtu == link.mtu
    if link.guard:
        outside = outside and seen.fdb and addresses <= seen.guarded
    outside = outside and addresses <= seen.neighbours
    if end is None or not outside:
        return outside
    return (
        end.eth0_mac == link.pod_mac
        and end.eth0_up
        and end.lo_up
        and end.mtu == link.mtu
        and frozenset(link.addresses) <= end.addresses
        and frozenset(link.gateways) <= end.default_gateways
        and frozenset(link.gateways) <= end.gateway_neighbours
    )


def _guard(view: View) -> list[Operation]:
    wanted = {link.name for link in view.pods.values()}
    stray = view.observed.stray_guard - wanted
    if not stray or not view.network.guard:
        return []
    present = {seen.name for seen in view.observed.pods}
    return [ResetGuard(view.network, tuple(link for link in view.pods.values() if link.name in present))]


def _sandboxes_surplus(view: View) -> tuple[list[Operation], list[Operation]]:
    """Sandboxes that must go. First those in the way of a new one (dead, or replaced by another slot), which go before it is made;
    then those of pods that leave and, only when sweeping is allowed, those that nobody knows.
    """
    wanted_slots = {link.slot for link in view.pods.values()}
    links_by_slot = {link.slot: link for link in view.observed.pods}
    replaced: list[Operation] = []
    surplus: list[Operation] = []
    for sandbox in view.sandboxes:
        link = links_by_slot.get(sandbox.slot)
        owner = view.owners.get(sandbox.slot) or (link.uid if link else "")
        warm = not owner and sandbox.slot in view.owners
        in_the_way = sandbox.pid == 0 or (owner in view.pods and sandbox.slot not in wanted_slots)
        leaves = owner in view.leaving or (view.may_sweep and not warm and owner not in view.pods)
        if not in_the_way and not leaves:
            continue
        operations = replaced if in_the_way else surplus
        if owner and (link is None or link.up):  # wired since the reading, perhaps; fencing what is not there is free
            operations.append(FencePod(owner, names.pod_link(view.network.cluster, owner)))
        operations.append(DropSandbox(owner, sandbox))
    return replaced, surplus


def _links_surplus(view: View) -> list[Operation]:
    """Host ends that no sandbox holds: left over when a namespace lost its pin and its pause process behind our back."""
    held = {sandbox.slot for sandbox in view.sandboxes} | view.cleaning
    orphans = tuple(
        link.name
        for link in view.observed.pods
        if link.slot not in held and link.uid not in view.pods and (view.may_sweep or link.uid in view.leaving)
    )
    return [DeleteLinks(orphans)] if orphans else []
