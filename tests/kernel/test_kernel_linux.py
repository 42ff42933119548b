"""The real kernel passes the contract: two nodes as namespaces on an underlay bridge, damage by ip(8), bridge(8) and nft(8)."""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Iterator

import pytest

from nodeagent.kernel import rtnl, rtnl_read
from nodeagent.kernel.base import NodeNetwork, PodLink, Sandbox
from nodeagent.kernel.linux import LinuxKernel
from nodeagent.kernel.netlink import NETLINK_NETFILTER, NetlinkSocket
from podwire.model.addresses import IPAddress
from tests.kernel.contract import SYSCTL, KernelContract
from tests.kernel.lab import Lab, Namespace, udp_arrives, until

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


class RealWorld:
    """A lab, in the contract's words."""

    def __init__(self, *, guard: bool) -> None:
        self.guard = guard
        self.lab = Lab(guard=guard)
        self._inside: dict[str, Namespace] = {}
        self._monitors = {name: Monitor(node.inside) for name, node in self.lab.nodes.items()}

    def close(self) -> None:
        for monitor in self._monitors.values():
            monitor.close()
        for inside in self._inside.values():
            inside.close()
        self.lab.close()

    def kernel(self, node: str) -> LinuxKernel:
        return self.lab.nodes[node].kernel

    def network(self, node: str) -> NodeNetwork:
        return self.lab.network(node)

    def sandbox(self, node: str, slot: str) -> Sandbox:
        inside = self._inside[slot] = Namespace()
        return Sandbox(slot, os.getpid(), 0, inside.inode, inside.path)

    def pod_link(self, node: str, uid: str, host: int, slot: str) -> PodLink:
        return self.lab.nodes[node].pod_link(uid, host, slot)

    def end(self, node: str, sandbox: Sandbox) -> None:
        self._inside.pop(sandbox.slot).close()
        network = self.network(node)
        until(lambda: all(pod.slot != sandbox.slot for pod in self.kernel(node).observe(network).pods))

    def arrives(
        self, node: str, sandbox: Sandbox, address: IPAddress, *, forge: IPAddress | None = None
    ) -> IPAddress | None:
        target = self._holder(address)
        if target is None:
            return None
        source = self._inside[sandbox.slot]
        return udp_arrives(source, target, address, seconds=self._patience(source, target), forge=forge)

    def _holder(self, address: IPAddress) -> Namespace | None:
        for inside in self._inside.values():
            with inside.rtnetlink() as opened:
                if any(found.interface.ip == address for found in rtnl_read.read_addresses(opened)):
                    return inside
        return None

    def _patience(self, *_: Namespace) -> float:
        return 1.0

    def lose(self, node: str, what: str, link: PodLink | None = None) -> None:
        inside = self.lab.nodes[node].inside
        if link is None:
            self._lose_of_node(node, inside, what)
            return
        pod = self._inside[link.slot]
        (interface, *_) = link.addresses
        element = f'{{ "{link.name}" . {link.pod_mac} . {interface.ip} }}'
        commands = {
            "pod neighbour": (inside, f"ip neigh del {interface.ip} dev pw-bridge"),
            "guard element": (inside, f"nft delete element bridge podwire pods4 {element}"),
            "port entry": (inside, f"bridge fdb del {link.pod_mac} dev {link.name} master static"),
            "port up": (inside, f"ip link set {link.name} down"),
            "port on bridge": (inside, f"ip link set {link.name} nomaster"),
            "host end": (inside, f"ip link del {link.name}"),
            "eth0 address": (pod, "ip addr flush dev eth0"),
            "eth0 up": (pod, "ip link set eth0 down"),
            "default route": (pod, "ip route del default"),
            "gateway neighbour": (pod, "ip neigh flush dev eth0 nud permanent"),
        }
        where, command = commands[what]
        where.command(*command.split(maxsplit=6 if command.startswith("nft") else -1))

    def _lose_of_node(self, node: str, inside: Namespace, what: str) -> None:
        (peer,) = self.network(node).peers
        commands = {
            "bridge address": "ip addr flush dev pw-bridge",
            "vxlan": "ip link del pw-vxlan",
            "nft table ip": "nft delete table ip podwire",
            "nft table bridge": "nft delete table bridge podwire",
            "sysctl": f"tee /proc/sys/{SYSCTL}",
            "bridge": "ip link del pw-bridge",
            "peer route": "ip route flush proto 77",
            "peer entry": f"bridge fdb del {peer.vtep_mac} dev pw-vxlan dst {peer.underlay} self",
            "peer neighbour": "ip neigh flush dev pw-vxlan nud permanent",
        }
        inside.command(*commands[what].split(), text="0")

    def writes(self, node: str) -> int:
        return self._monitors[node].count()


class Monitor:
    """Counts what changes in a namespace, as ip-monitor(8) and `nft monitor` would show it."""

    def __init__(self, inside: Namespace) -> None:
        self._route = inside.run(lambda: NetlinkSocket(groups=(1, 3, 5, 7, 9, 11)))
        self._nft = inside.run(lambda: NetlinkSocket(NETLINK_NETFILTER, groups=(7,)))
        self._count = 0

    def count(self) -> int:
        """So far; waits until nothing has come for over a second, as the kernel reports a carrier that late (linkwatch)."""
        while select.select([self._route, self._nft], [], [], 1.2)[0]:
            for opened in (self._route, self._nft):
                self._count += sum(map(_deliberate, opened.receive_pending() or ()))
        return self._count

    def close(self) -> None:
        self._route.close()
        self._nft.close()


def _deliberate(news: tuple[int, int, bytes]) -> bool:
    """Neighbour entries that traffic makes and ages are nobody's writing."""
    kind, _, payload = news
    if kind not in {rtnl.NEW_NEIGHBOUR, rtnl.DELETE_NEIGHBOUR}:
        return True
    state: int = struct.unpack_from("=H", payload, 8)[0]
    return bool(state & (rtnl.PERMANENT | rtnl.NO_ARP))


@pytest.fixture
def world() -> Iterator[RealWorld]:
    made = RealWorld(guard=True)
    yield made
    made.close()


@pytest.fixture
def unguarded() -> Iterator[RealWorld]:
    made = RealWorld(guard=False)
    yield made
    made.close()


class TestLinuxKernel(KernelContract):
    """The suite on the real kernel."""


def test_without_the_guard_a_forged_source_passes(unguarded: RealWorld) -> None:
    KernelContract().test_a_forged_source_passes_only_without_the_guard(unguarded)


def test_without_the_guard_repeating_writes_nothing(unguarded: RealWorld) -> None:
    KernelContract().test_repeating_every_verb_writes_nothing(unguarded)
