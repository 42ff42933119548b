"""What every `Kernel` does: one suite for the real one (in throw-away namespaces, with real packets) and the fake.

In: a `World` of two nodes that can be damaged. Out: assertions on observations and on whether packets arrive. A new kernel passes by
subclassing `KernelContract` and giving a `world` fixture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import pytest

from nodeagent.kernel.base import Failure, Kernel, NodeNetwork, ObservedPodEnd, PodLink, Sandbox
from podwire.model.addresses import IPAddress, vtep_address


class World(Protocol):
    """Nodes "a" and "b" on one underlay, with nothing made on them yet."""

    guard: bool

    def kernel(self, node: str) -> Kernel: ...

    def network(self, node: str) -> NodeNetwork: ...

    def sandbox(self, node: str, slot: str) -> Sandbox:
        """Makes an empty one."""

    def pod_link(self, node: str, uid: str, host: int, slot: str) -> PodLink:
        """A link with address number `host` of the node's pod CIDR."""

    def end(self, node: str, sandbox: Sandbox) -> None:
        """The sandbox ends, and with it what is in it."""

    def arrives(
        self, node: str, sandbox: Sandbox, address: IPAddress, *, forge: IPAddress | None = None
    ) -> IPAddress | None:
        """Sends to a pod's address; whom the receiver sees as sender, or None when nothing arrives."""

    def lose(self, node: str, what: str, link: PodLink | None = None) -> None:
        """Damages one object as another program would."""

    def writes(self, node: str) -> int:
        """Counts changes so far, by anyone."""


NODE_DAMAGE = (
    "bridge address",
    "vxlan",
    "nft table ip",
    "nft table bridge",
    "sysctl",
    "bridge",
)
PEER_DAMAGE = ("peer route", "peer entry", "peer neighbour")
POD_DAMAGE = (
    "pod neighbour",
    "guard element",
    "port entry",
    "port up",
    "port on bridge",
    "host end",
    "eth0 address",
    "eth0 up",
    "default route",
    "gateway neighbour",
)
SYSCTL = "net/ipv4/ip_forward"


def errors(results: Sequence[object]) -> list[str]:
    return [result.error.message for result in results if isinstance(result, Failure)]


class Cluster:
    """Both nodes up, pods a1 and a2 on a and b1 on b."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.pods: dict[str, tuple[str, PodLink, Sandbox]] = {}
        for node in ("a", "b"):
            self.ensure(node)
        for name, node, host in (("a1", "a", 2), ("a2", "a", 3), ("b1", "b", 2)):
            slot = f"{name}00000000000"[:12]
            self.pods[name] = (node, world.pod_link(node, f"uid-{name}", host, slot), world.sandbox(node, slot))
        self.wire()

    def ensure(self, node: str) -> list[str]:
        kernel, network = self.world.kernel(node), self.world.network(node)
        changed = kernel.ensure_node(network)
        assert errors(kernel.ensure_peers(network, network.peers)) == []
        return changed

    def wire(self) -> None:
        for node in ("a", "b"):
            mine = [(link, sandbox) for where, link, sandbox in self.pods.values() if where == node]
            results = self.world.kernel(node).wire([link for link, _ in mine], [sandbox for _, sandbox in mine])
            assert errors(results) == []

    def links(self, node: str) -> list[PodLink]:
        return [link for where, link, _ in self.pods.values() if where == node]

    def flows(self) -> dict[tuple[str, str], bool]:
        """Which pair of pods talks, with the sender's own address seen by the receiver."""
        found = {}
        for source, (node, link, sandbox) in self.pods.items():
            for target, (_, other, _) in self.pods.items():
                if source != target:
                    seen = self.world.arrives(node, sandbox, other.addresses[0].ip)
                    found[source, target] = seen == link.addresses[0].ip
        return found

    def assert_right(self) -> None:
        for node in ("a", "b"):
            network = self.world.network(node)
            kernel = self.world.kernel(node)
            seen = kernel.observe(network)
            assert seen.missing == ()
            assert seen.stray_guard == frozenset()
            wanted = {
                (peer.vtep_mac, peer.underlay, frozenset(map(vtep_address, peer.pod_cidrs)), frozenset(peer.pod_cidrs))
                for peer in network.peers
            }
            assert {(peer.vtep_mac, peer.underlay, peer.neighbours, peer.routes) for peer in seen.peers} == wanted
            by_name = {pod.name: pod for pod in seen.pods}
            mine = [(link, sandbox) for where, link, sandbox in self.pods.values() if where == node]
            assert set(by_name) == {link.name for link, _ in mine}
            for link, sandbox in mine:
                pod = by_name[link.name]
                addresses = frozenset(interface.ip for interface in link.addresses)
                assert (pod.uid, pod.generation, pod.slot) == (link.uid, link.generation, link.slot)
                assert (pod.up, pod.on_bridge, pod.host_mac, pod.mtu) == (True, True, link.host_mac, link.mtu)
                assert (pod.fdb, pod.neighbours) == (link.guard, addresses)
                assert pod.guarded == (addresses if link.guard else frozenset())
                (end,) = kernel.observe_ends([sandbox])
                assert end == ObservedPodEnd(
                    slot=sandbox.slot,
                    eth0_mac=link.pod_mac,
                    eth0_up=True,
                    lo_up=True,
                    mtu=link.mtu,
                    addresses=frozenset(link.addresses),
                    default_gateways=frozenset(link.gateways),
                    gateway_neighbours=frozenset(link.gateways),
                )


class KernelContract:
    """The suite."""

    def test_a_fresh_node_lacks_everything_and_then_nothing(self, world: World) -> None:
        kernel, network = world.kernel("a"), world.network("a")
        before = kernel.observe(network)
        assert {"bridge", "vxlan", "nft table ip podwire", "nft table bridge podwire"} <= set(before.missing)
        assert before.pods == ()
        assert before.peers == ()
        assert kernel.ensure_node(network) != []
        assert kernel.observe(network).missing == ()
        assert kernel.observe(network).pod_mtu == network.pod_mtu
        assert kernel.ensure_node(network) == []

    def test_all_pairs_of_pods_talk_without_nat(self, world: World) -> None:
        cluster = Cluster(world)
        cluster.assert_right()
        assert cluster.flows() == dict.fromkeys(cluster.flows(), True)

    def test_repeating_every_verb_writes_nothing(self, world: World) -> None:
        cluster = Cluster(world)
        cluster.flows()  # carriers are up and the kernel's own changes done
        before = world.writes("a"), world.writes("b")
        for node in ("a", "b"):
            assert cluster.ensure(node) == []
            world.kernel(node).reset_guard(world.network(node), cluster.links(node))
        cluster.wire()
        cluster.assert_right()
        assert (world.writes("a"), world.writes("b")) == before

    @pytest.mark.parametrize("what", NODE_DAMAGE)
    def test_node_damage_is_seen_and_mended(self, world: World, what: str) -> None:
        cluster = Cluster(world)
        world.lose("a", what)
        seen = world.kernel("a").observe(world.network("a"))
        assert any(what.split(" address", maxsplit=1)[0] in name for name in seen.missing), seen.missing
        assert cluster.ensure("a") != []
        cluster.wire()
        cluster.assert_right()
        assert all(cluster.flows().values())

    @pytest.mark.parametrize("what", PEER_DAMAGE)
    def test_peer_damage_is_seen_and_mended(self, world: World, what: str) -> None:
        cluster = Cluster(world)
        world.lose("a", what)
        (seen,) = [
            peer for peer in world.kernel("a").observe(world.network("a")).peers if peer.vtep_mac
        ]  # the one other node
        (peer,) = world.network("a").peers
        lost = {
            "peer route": not seen.routes,
            "peer entry": seen.underlay is None,
            "peer neighbour": not seen.neighbours,
        }
        assert lost == {name: name == what for name in PEER_DAMAGE}
        assert world.kernel("a").ensure_peers(world.network("a"), [peer]) == [None]
        cluster.assert_right()
        assert all(cluster.flows().values())

    @pytest.mark.parametrize("what", POD_DAMAGE)
    def test_pod_damage_is_seen_and_mended_without_touching_others(self, world: World, what: str) -> None:
        cluster = Cluster(world)
        _, link, _ = cluster.pods["a1"]
        others = [pod for pod in world.kernel("a").observe(world.network("a")).pods if pod.name != link.name]
        world.lose("a", what, link)
        with pytest.raises(AssertionError):
            cluster.assert_right()
        cluster.wire()
        cluster.assert_right()
        after = [pod for pod in world.kernel("a").observe(world.network("a")).pods if pod.name != link.name]
        assert after == others
        assert all(cluster.flows().values())

    def test_a_forged_source_passes_only_without_the_guard(self, world: World) -> None:
        cluster = Cluster(world)
        node, _, sandbox = cluster.pods["a1"]
        victim, target = cluster.pods["b1"][1], cluster.pods["a2"][1]
        seen = world.arrives(node, sandbox, target.addresses[0].ip, forge=victim.addresses[0].ip)
        assert seen == (None if world.guard else victim.addresses[0].ip)

    def test_an_unwired_pod_is_mute_and_can_be_wired_again(self, world: World) -> None:
        cluster = Cluster(world)
        _, link, sandbox = cluster.pods["a1"]
        assert world.kernel("a").unwire([link.name]) == [None]
        (pod,) = [pod for pod in world.kernel("a").observe(world.network("a")).pods if pod.name == link.name]
        assert (pod.up, pod.guarded, pod.neighbours) == (False, frozenset(), frozenset())
        flows = cluster.flows()
        assert {pair for pair, works in flows.items() if works} == {("a2", "b1"), ("b1", "a2")}
        assert world.kernel("a").wire([link], [sandbox]) == [None]
        cluster.assert_right()
        assert all(cluster.flows().values())

    def test_an_ended_sandbox_takes_its_link_and_leaves_stray_guard_elements(self, world: World) -> None:
        cluster = Cluster(world)
        node, link, sandbox = cluster.pods.pop("a1")
        world.end(node, sandbox)
        seen = world.kernel("a").observe(world.network("a"))
        assert link.name not in {pod.name for pod in seen.pods}
        assert seen.stray_guard == ({link.name} if world.guard else frozenset())
        (failed,) = world.kernel("a").observe_ends([sandbox])
        assert isinstance(failed, Failure)
        world.kernel("a").reset_guard(world.network("a"), cluster.links("a"))
        cluster.assert_right()

    def test_one_bad_sandbox_does_not_hold_up_the_batch(self, world: World) -> None:
        cluster = Cluster(world)
        good = world.sandbox("a", "good00000000"), world.pod_link("a", "uid-good", 9, "good00000000")
        bad = world.sandbox("a", "bad000000000"), world.pod_link("a", "uid-bad", 10, "bad000000000")
        reused = dataclasses.replace(bad[0], netns_inode=1)
        first, second = world.kernel("a").wire([bad[1], good[1]], [reused, good[0]])
        assert isinstance(first, Failure)
        assert second is None
        cluster.pods["good"] = ("a", good[1], good[0])
        cluster.assert_right()
        assert world.arrives("a", good[0], cluster.pods["b1"][1].addresses[0].ip) == good[1].addresses[0].ip

    def test_a_pod_that_moves_to_another_sandbox_leaves_the_old_one(self, world: World) -> None:
        cluster = Cluster(world)
        _, link, old = cluster.pods["a1"]
        new = world.sandbox("a", "newslot00000")
        moved = dataclasses.replace(link, slot=new.slot, generation=2)
        assert world.kernel("a").wire([moved], [new]) == [None]
        cluster.pods["a1"] = ("a", moved, new)
        cluster.assert_right()
        (end,) = world.kernel("a").observe_ends([old])
        assert isinstance(end, ObservedPodEnd)
        assert end.eth0_mac is None
        assert all(cluster.flows().values())

    def test_a_departed_peer_is_forgotten(self, world: World) -> None:
        cluster = Cluster(world)
        alone = dataclasses.replace(world.network("a"), peers=())
        kernel = world.kernel("a")
        kernel.ensure_node(alone)
        peers = kernel.observe(alone).peers
        assert len(peers) == 1
        assert kernel.delete_peers(peers) == [None]
        assert kernel.delete_peers(peers) == [None]
        assert kernel.observe(alone).peers == ()
        assert kernel.observe(alone).missing == ()
        source = cluster.pods["a1"][2]
        assert world.arrives("a", source, cluster.pods["b1"][1].addresses[0].ip) is None
        assert world.arrives("a", source, cluster.pods["a2"][1].addresses[0].ip) is not None

    def test_what_was_never_made_deletes_well(self, world: World) -> None:
        kernel = world.kernel("a")
        kernel.ensure_node(world.network("a"))
        assert kernel.unwire(["v000000000000"]) == [None]
        assert kernel.delete_links(["v000000000000"]) == [None]

    def test_links_without_a_sandbox_can_be_deleted(self, world: World) -> None:
        cluster = Cluster(world)
        _, link, _ = cluster.pods.pop("a1")
        assert world.kernel("a").delete_links([link.name]) == [None]
        world.kernel("a").reset_guard(world.network("a"), cluster.links("a"))
        cluster.assert_right()

    def test_pods_wait_for_the_node(self, world: World) -> None:
        sandbox, link = world.sandbox("a", "early0000000"), world.pod_link("a", "uid-early", 2, "early0000000")
        (result,) = world.kernel("a").wire([link], [sandbox])
        assert isinstance(result, Failure)
        assert "pw-bridge" in result.error.message
        (peer,) = world.network("a").peers
        (refused,) = world.kernel("a").ensure_peers(world.network("a"), [peer])
        assert isinstance(refused, Failure)
