"""The fake kernel passes the contract, and is refused and damaged as tests of the agent need it."""

from __future__ import annotations

import errno
import ipaddress
from typing import Any

import pytest

from nodeagent.kernel.base import Failure, Kernel, NodeNetwork, Peer, PodLink, Sandbox
from nodeagent.kernel.fake import OUTSIDE, FakeFabric, FakeKernel, FakeSandboxes, arrives
from podwire.errors import KernelError
from podwire.model import names
from podwire.model.addresses import IPAddress, IPNetwork, gateway_address
from tests.kernel.contract import SYSCTL, Cluster, KernelContract

NODES = {"a": 1, "b": 2}


class FakeWorld:
    """Two fake nodes."""

    def __init__(self, *, guard: bool) -> None:
        self.guard = guard
        self.fabric = FakeFabric()
        self.kernels = {name: FakeKernel(self.fabric, self._underlay(name)) for name in NODES}
        self.sandboxes = {name: FakeSandboxes(kernel) for name, kernel in self.kernels.items()}

    def _underlay(self, node: str) -> IPAddress:
        return ipaddress.ip_address(f"172.30.0.{10 + NODES[node]}")

    def _cidrs(self, node: str) -> tuple[IPNetwork, ...]:
        return (ipaddress.ip_network(f"10.244.{NODES[node]}.0/24"),)

    def kernel(self, node: str) -> Kernel:
        return self.kernels[node]

    def network(self, node: str) -> NodeNetwork:
        return NodeNetwork(
            cluster="lab",
            node=node,
            underlay_link="eth0",
            underlay=self._underlay(node),
            node_addresses=tuple(self._underlay(name) for name in NODES),
            cluster_cidrs=(ipaddress.ip_network("10.244.0.0/16"),),
            service_cidrs=(ipaddress.ip_network("10.96.0.0/16"),),
            pod_cidrs=self._cidrs(node),
            bridge_mac=names.bridge_mac("lab", node),
            vtep_mac=names.vtep_mac("lab", node),
            vni=77,
            vxlan_port=8472,
            pod_mtu=1450,
            guard=self.guard,
            peers=tuple(
                Peer(name, self._underlay(name), self._cidrs(name), names.vtep_mac("lab", name))
                for name in NODES
                if name != node
            ),
        )

    def sandbox(self, node: str, slot: str) -> Sandbox:
        (made,) = self.sandboxes[node].create([(slot, "host")])
        assert isinstance(made, Sandbox)
        return made

    def pod_link(self, node: str, uid: str, host: int, slot: str) -> PodLink:
        (cidr,) = self._cidrs(node)
        return PodLink(
            uid=uid,
            generation=1,
            slot=slot,
            name=names.pod_link("lab", uid),
            host_mac=names.host_mac("lab", uid),
            pod_mac=names.pod_mac("lab", uid),
            addresses=(ipaddress.ip_interface(f"{cidr.network_address + host}/{cidr.prefixlen}"),),
            gateways=(gateway_address(cidr),),
            gateway_mac=names.bridge_mac("lab", node),
            mtu=1450,
            guard=self.guard,
        )

    def end(self, node: str, sandbox: Sandbox) -> None:
        assert self.sandboxes[node].delete([sandbox]) == [None]
        assert self.sandboxes[node].gone(sandbox)

    def arrives(
        self, node: str, sandbox: Sandbox, address: IPAddress, *, forge: IPAddress | None = None
    ) -> IPAddress | None:
        return arrives(self.kernels[node], sandbox, address, sender=forge).seen

    def lose(self, node: str, what: str, link: PodLink | None = None) -> None:
        self.kernels[node].lose(what, SYSCTL if what == "sysctl" else link.name if link else "")

    def writes(self, node: str) -> int:
        return self.kernels[node].writes


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld(guard=True)


class TestFakeKernel(KernelContract):
    """The suite on the fake."""


def test_without_the_guard_a_forged_source_passes() -> None:
    KernelContract().test_a_forged_source_passes_only_without_the_guard(_unguarded(FakeWorld(guard=False)))


def _unguarded(world: FakeWorld) -> FakeWorld:
    return world


def test_a_cut_underlay_stops_only_what_crosses_it(world: FakeWorld) -> None:
    cluster = Cluster(world)
    world.fabric.cut(world.kernels["a"].underlay_address, world.kernels["b"].underlay_address)
    assert {pair for pair, works in cluster.flows().items() if works} == {("a1", "a2"), ("a2", "a1")}
    world.fabric.heal()
    assert all(cluster.flows().values())


def test_traffic_out_of_the_cluster_is_masqueraded(world: FakeWorld) -> None:
    cluster = Cluster(world)
    way = arrives(world.kernels["a"], cluster.pods["a1"][2], ipaddress.ip_address("192.0.2.1"))
    assert (way.arrived, way.place, way.seen) == (True, OUTSIDE, ipaddress.ip_address("172.30.0.11"))


def test_a_refused_verb_fails_that_item_only(world: FakeWorld) -> None:
    cluster = Cluster(world)
    _, link, _ = cluster.pods["a1"]

    def refuse(verb: str, obj: str) -> KernelError | None:
        return KernelError(errno.ENOMEM, verb, obj) if (verb, obj) == ("wire", f"pod link {link.name}") else None

    world.kernels["a"].refuse = refuse
    mine = [(link, sandbox) for where, link, sandbox in cluster.pods.values() if where == "a"]
    results = world.kernels["a"].wire([link for link, _ in mine], [sandbox for _, sandbox in mine])
    assert [isinstance(result, Failure) for result in results] == [True, False]


def test_a_held_namespace_is_not_gone(world: FakeWorld) -> None:
    """A socket in a namespace keeps it and its link alive after the pause process ended."""
    cluster = Cluster(world)
    sandboxes: Any = world.sandboxes["a"]
    _, link, sandbox = cluster.pods["a1"]
    sandboxes.hold(sandbox.slot, "socket")
    sandboxes.delete([sandbox])
    assert not sandboxes.gone(sandbox)
    assert link.name in world.kernels["a"].ports
    sandboxes.let_go(sandbox.slot, "socket")
    assert sandboxes.gone(sandbox)
    assert link.name not in world.kernels["a"].ports


def test_a_dead_pause_is_reported_without_a_pid(world: FakeWorld) -> None:
    sandbox = world.sandbox("a", "slot00000000")
    world.sandboxes["a"].end_pause(sandbox.slot)
    assert [(each.slot, each.pid) for each in world.sandboxes["a"].existing()] == [(sandbox.slot, 0)]


def test_after_a_reboot_nothing_is_left(world: FakeWorld) -> None:
    cluster = Cluster(world)
    world.kernels["a"].reboot()
    assert "bridge" in world.kernels["a"].observe(world.network("a")).missing
    assert world.sandboxes["a"].existing() == []
    assert cluster.flows()["b1", "a1"] is False
