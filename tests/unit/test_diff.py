"""The diff: what is missing is named, what is right is left alone, what is unknown stays until it may be swept."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest

from nodeagent.diff import View, diff, node_network, pod_link
from nodeagent.kernel.base import NodeNetwork, Observed, ObservedPeer, ObservedPodEnd, ObservedPodLink, PodLink, Sandbox
from nodeagent.operations import (
    AdoptSandbox,
    DeleteLinks,
    DeletePeers,
    DropSandbox,
    EnsureNode,
    EnsurePeers,
    FencePod,
    MakeSandbox,
    WirePod,
)
from podwire.api.v1 import state_pb2 as state
from podwire.model import names

CLUSTER = state.ClusterState(
    cluster="c",
    cluster_cidrs=["10.244.0.0/16"],
    vni=1,
    vxlan_port=4789,
    guard=True,
    peers=[
        state.Peer(
            node="a", underlay_addresses=["172.31.0.2"], pod_cidrs=["10.244.1.0/24"], vtep_mac=names.vtep_mac("c", "a")
        ),
        state.Peer(
            node="b", underlay_addresses=["172.31.0.3"], pod_cidrs=["10.244.2.0/24"], vtep_mac=names.vtep_mac("c", "b")
        ),
        state.Peer(node="unplaced", pod_cidrs=["10.244.3.0/24"], vtep_mac=names.vtep_mac("c", "unplaced")),
    ],
)
NODE = state.NodeConfig(node="a", pod_cidrs=["10.244.1.0/24"])
NETWORK = node_network(CLUSTER, NODE, link="eth0", underlay=ipaddress.ip_address("172.31.0.2"), underlay_mtu=1500)


def link(uid: str = "p", slot: str = "s") -> PodLink:
    return pod_link(NETWORK, state.PodState(uid=uid, generation=1, addresses=["10.244.1.5"]), slot)


def seen_link(of: PodLink) -> ObservedPodLink:
    ips = frozenset(interface.ip for interface in of.addresses)
    return ObservedPodLink(
        of.name,
        7,
        of.uid,
        of.generation,
        of.slot,
        up=True,
        on_bridge=True,
        host_mac=of.host_mac,
        mtu=of.mtu,
        fdb=True,
        neighbours=ips,
        guarded=ips,
    )


def seen_end(of: PodLink) -> ObservedPodEnd:
    gateways = frozenset(of.gateways)
    return ObservedPodEnd(
        of.slot,
        of.pod_mac,
        eth0_up=True,
        lo_up=True,
        mtu=of.mtu,
        addresses=frozenset(of.addresses),
        default_gateways=gateways,
        gateway_neighbours=gateways,
    )


def sandbox(slot: str = "s", pid: int = 10) -> Sandbox:
    return Sandbox(slot, pid, 1, 1, f"/run/{slot}")


PEER_B = ObservedPeer(
    names.vtep_mac("c", "b"),
    ipaddress.ip_address("172.31.0.3"),
    frozenset({ipaddress.ip_address("10.244.2.0")}),
    frozenset({ipaddress.ip_network("10.244.2.0/24")}),
)


def right(network: NodeNetwork = NETWORK) -> View:
    """A node with one pod, as it should be."""
    pod = link()
    observed = Observed(
        missing=(), peers=(PEER_B,), pods=(seen_link(pod),), stray_guard=frozenset(), pod_mtu=network.pod_mtu
    )
    return View(
        network,
        {"p": pod},
        {"p": "web"},
        frozenset(),
        observed,
        (sandbox(),),
        {"s": seen_end(pod)},
        {"s": "p"},
        may_sweep=True,
    )


def test_a_node_that_is_right_needs_nothing() -> None:
    """No difference, no operation: a restart writes nothing."""
    assert diff(right()) == []


def test_the_network_is_a_function_of_plan_and_underlay() -> None:
    """MTU by the underlay's family; peers without a reachable address are left out."""
    assert NETWORK.pod_mtu == 1450
    assert [peer.node for peer in NETWORK.peers] == ["b"]
    over_v6 = node_network(CLUSTER, NODE, link="eth0", underlay=ipaddress.ip_address("fd00::2"), underlay_mtu=1500)
    assert over_v6.pod_mtu == 1430
    assert over_v6.peers == ()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("down", {"up": False}),
        ("off the bridge", {"on_bridge": False}),
        ("another MAC", {"host_mac": "02:00:00:00:00:01"}),
        ("another MTU", {"mtu": 1400}),
        ("no forwarding entry", {"fdb": False}),
        ("no neighbour", {"neighbours": frozenset()}),
        ("not guarded", {"guarded": frozenset()}),
        ("another pod's", {"uid": "q"}),
    ],
)
def test_a_wrong_host_end_is_wired_again(name: str, change: dict[str, object]) -> None:
    """Whatever is wrong outside the sandbox, the pod is wired again in the sandbox it has."""
    view = right()
    wrong = replace(view.observed, pods=(replace(view.observed.pods[0], **change),))  # type: ignore[arg-type]
    kinds = [type(operation) for operation in diff(replace(view, observed=wrong))]
    assert kinds == [AdoptSandbox, WirePod], name


@pytest.mark.parametrize(
    "change",
    [
        {"eth0_up": False},
        {"eth0_mac": None},
        {"lo_up": False},
        {"addresses": frozenset()},
        {"default_gateways": frozenset()},
        {"gateway_neighbours": frozenset()},
    ],
)
def test_a_wrong_pod_end_is_wired_again(change: dict[str, object]) -> None:
    """Inside as well; an end that was not looked at counts as right."""
    view = right()
    wrong = {"s": replace(view.ends["s"], **change)}  # type: ignore[arg-type]
    assert [type(operation) for operation in diff(replace(view, ends=wrong))] == [AdoptSandbox, WirePod]
    assert diff(replace(view, ends={})) == []


def test_a_new_pod_gets_a_sandbox_and_then_a_wire() -> None:
    view = right()
    operations = diff(replace(view, pods={**view.pods, "q": link("q", "t")}, hostnames={"q": "db"}))
    assert operations == [MakeSandbox("q", "t", "db"), WirePod(link("q", "t"), None)]


def test_what_was_just_wired_is_believed_until_the_next_reading() -> None:
    view = right()
    blank = replace(view, observed=replace(view.observed, pods=()), assumed=frozenset({"p"}))
    assert diff(blank) == []


def test_a_dead_sandbox_goes_before_its_replacement_comes() -> None:
    """The host end's name is the pod's: the old one must be out of the way."""
    view = right()
    operations = diff(replace(view, pods={"p": link("p", "t")}, sandboxes=(sandbox(pid=0),)))
    kinds = [type(operation) for operation in operations]
    assert kinds == [FencePod, DropSandbox, MakeSandbox, WirePod]


def test_a_pod_that_leaves_is_fenced_then_dropped() -> None:
    view = right()
    operations = diff(replace(view, pods={}, leaving=frozenset({"p"})))
    assert operations == [FencePod("p", link().name), DropSandbox("p", sandbox())]


def test_what_is_unknown_stays_until_it_may_be_swept() -> None:
    """Before the first complete snapshot nothing is removed that nobody named."""
    view = replace(right(), pods={}, owners={}, may_sweep=False)
    assert diff(view) == []
    assert [type(op) for op in diff(replace(view, may_sweep=True))] == [FencePod, DropSandbox]


def test_a_warm_sandbox_is_kept() -> None:
    view = replace(right(), sandboxes=(sandbox(), sandbox("w")), owners={"s": "p", "w": ""})
    assert diff(view) == []


def test_an_orphaned_link_is_deleted_unless_the_kernel_is_at_it() -> None:
    view = replace(right(), pods={}, sandboxes=(), owners={})
    assert diff(view) == [DeleteLinks((link().name,))]
    assert diff(replace(view, cleaning=frozenset({"s"}))) == []


def test_node_and_peers() -> None:
    """Node-level objects first, then peers; who left the mesh goes last."""
    stranger = replace(PEER_B, vtep_mac="02:00:00:00:00:09")
    view = right()
    observed = replace(view.observed, missing=("bridge",), peers=(stranger,))
    assert diff(replace(view, observed=observed)) == [
        EnsureNode(NETWORK),
        EnsurePeers(NETWORK, NETWORK.peers),
        DeletePeers((stranger,)),
    ]


def test_a_half_made_peer_is_made_whole() -> None:
    view = right()
    half = replace(PEER_B, routes=frozenset())
    assert diff(replace(view, observed=replace(view.observed, peers=(half,)))) == [EnsurePeers(NETWORK, NETWORK.peers)]
