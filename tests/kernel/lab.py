"""Two or more nodes as network namespaces on an underlay bridge in a namespace of its own: what the kernel tests stand on.

Namespaces are held by descriptors of the test process and reached as /proc/PID/fd/N, so nothing is left when it ends.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

from nodeagent.kernel import netns
from nodeagent.kernel.base import Failure, NodeNetwork, Peer, PodLink, Sandbox
from nodeagent.kernel.linux import LinuxKernel
from nodeagent.kernel.netlink import NetlinkSocket
from podwire.model import names
from podwire.model.addresses import IPAddress, IPNetwork, gateway_address
from podwire.seams import SystemClock

T = TypeVar("T")
CLUSTER = "lab"
SERVICE_CIDRS = ("10.96.0.0/16", "fd00:96::/112")
CLUSTER_CIDRS = ("10.244.0.0/16", "fd00:244::/48")
PORT = 8472
UNDERLAY_MTU = 1500


class Namespace:
    """A network namespace held open by this process."""

    def __init__(self) -> None:
        self.fd = netns.run_in_new(netns.open_current)
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"
        self.inode = os.fstat(self.fd).st_ino

    def run(self, work: Callable[[], T]) -> T:
        return netns.run_in(self.fd, work)

    def command(self, *argv: str, check: bool = True, text: str = "") -> str:
        """Runs a program inside, with `text` to read; its output, and an AssertionError with it when it fails."""
        done = subprocess.run(
            ["nsenter", f"--net={self.path}", *argv],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            input=text,
        )
        assert done.returncode == 0 or not check, f"{' '.join(argv)}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_DGRAM, protocol: int = 0) -> socket.socket:
        return self.run(lambda: socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol))

    @contextlib.contextmanager
    def rtnetlink(self) -> Iterator[NetlinkSocket]:
        opened = self.run(NetlinkSocket)
        try:
            yield opened
        finally:
            opened.close()

    def close(self) -> None:
        os.close(self.fd)


@dataclass
class Pod:
    """A pod of the lab."""

    node: Node
    link: PodLink
    sandbox: Sandbox
    inside: Namespace

    def address(self, version: int = 4) -> IPAddress:
        return next(interface.ip for interface in self.link.addresses if interface.version == version)


@dataclass
class Node:
    """A node of the lab."""

    name: str
    number: int
    inside: Namespace
    underlay: IPAddress
    pod_cidrs: tuple[IPNetwork, ...]
    guard: bool
    port: int = PORT
    mtu: int = UNDERLAY_MTU - 50
    pods: list[Pod] = field(default_factory=list)
    _kernel: LinuxKernel | None = None

    @property
    def kernel(self) -> LinuxKernel:
        if self._kernel is None:
            self._kernel = LinuxKernel(Path(self.inside.path))
        return self._kernel

    def peer(self) -> Peer:
        return Peer(self.name, self.underlay, self.pod_cidrs, names.vtep_mac(CLUSTER, self.name))

    def pod_link(self, uid: str, host: int, slot: str) -> PodLink:
        return PodLink(
            uid=uid,
            generation=1,
            slot=slot,
            name=names.pod_link(CLUSTER, uid),
            host_mac=names.host_mac(CLUSTER, uid),
            pod_mac=names.pod_mac(CLUSTER, uid),
            addresses=tuple(
                ipaddress.ip_interface(f"{cidr.network_address + host}/{cidr.prefixlen}") for cidr in self.pod_cidrs
            ),
            gateways=tuple(gateway_address(cidr) for cidr in self.pod_cidrs),
            gateway_mac=names.bridge_mac(CLUSTER, self.name),
            mtu=self.mtu,
            guard=self.guard,
        )

    def make_pod(self, uid: str, host: int, *, wire: bool = True) -> Pod:
        inside = Namespace()
        slot = uid.encode().hex()[:12].ljust(12, "0")
        sandbox = Sandbox(slot, os.getpid(), 0, inside.inode, inside.path)
        pod = Pod(self, self.pod_link(uid, host, slot), sandbox, inside)
        self.pods.append(pod)
        if wire:
            assert self.kernel.wire([pod.link], [sandbox]) == [None]
        return pod


class Lab:
    """The underlay and its nodes; `close` (or a with block) frees everything."""

    def __init__(
        self, *, guard: bool = True, ipv6: bool = False, underlay6: bool = False, nodes: Sequence[str] = "ab"
    ) -> None:
        self.fabric = Namespace()
        self.fabric.command("ip", "link", "add", "underlay", "type", "bridge", "mcast_snooping", "0")
        self.fabric.command("ip", "link", "set", "underlay", "up")
        self.fabric.command("ip", "addr", "add", "172.30.0.1/24", "dev", "underlay")
        self.fabric.command("ip", "link", "set", "lo", "up")
        self.ipv6, self.underlay6, self.guard = ipv6, underlay6, guard
        self.nodes: dict[str, Node] = {}
        for number, name in enumerate(nodes, start=1):
            self.nodes[name] = self._node(name, number)

    def host(self, name: str, number: int) -> Namespace:
        """A machine on the underlay that is no node."""
        inside = Namespace()
        peer = ("peer", "name", "eth0", "netns", inside.path)
        self.fabric.command("ip", "link", "add", f"u-{name}", "type", "veth", *peer)
        self.fabric.command("ip", "link", "set", f"u-{name}", "master", "underlay", "up")
        inside.command("ip", "link", "set", "lo", "up")
        inside.command("ip", "addr", "add", f"172.30.0.{number}/24", "dev", "eth0")
        if self.underlay6:
            inside.command("ip", "addr", "add", f"fd00:30::{number}/64", "dev", "eth0", "nodad")
        inside.command("ip", "link", "set", "eth0", "addrgenmode", "none")  # nothing of the kernel's own making later
        inside.command("ip", "link", "set", "eth0", "up")
        inside.command("ip", "route", "add", "default", "via", "172.30.0.1")
        return inside

    def _node(self, name: str, number: int) -> Node:
        inside = self.host(name, 10 + number)
        cidrs: list[IPNetwork] = [ipaddress.ip_network(f"10.244.{number}.0/24")]
        if self.ipv6:
            cidrs.append(ipaddress.ip_network(f"fd00:244:0:{number}::/64"))
        underlay = ipaddress.ip_address(f"fd00:30::{10 + number}" if self.underlay6 else f"172.30.0.{10 + number}")
        mtu = UNDERLAY_MTU - (70 if self.underlay6 else 50)
        return Node(name, number, inside, underlay, tuple(cidrs), self.guard, mtu=mtu)

    def network(self, name: str) -> NodeNetwork:
        node = self.nodes[name]
        cidrs = CLUSTER_CIDRS if self.ipv6 else CLUSTER_CIDRS[:1]
        services = SERVICE_CIDRS if self.ipv6 else SERVICE_CIDRS[:1]
        return NodeNetwork(
            cluster=CLUSTER,
            node=name,
            underlay_link="eth0",
            underlay=node.underlay,
            node_addresses=tuple(each.underlay for each in self.nodes.values()),
            cluster_cidrs=tuple(ipaddress.ip_network(cidr) for cidr in cidrs),
            service_cidrs=tuple(ipaddress.ip_network(cidr) for cidr in services),
            pod_cidrs=node.pod_cidrs,
            bridge_mac=names.bridge_mac(CLUSTER, name),
            vtep_mac=names.vtep_mac(CLUSTER, name),
            vni=77,
            vxlan_port=node.port,
            pod_mtu=node.mtu,
            guard=node.guard,
            peers=tuple(other.peer() for other in self.nodes.values() if other.name != name),
        )

    def up(self) -> None:
        """Every node as it should be, knowing every other."""
        for name, node in self.nodes.items():
            network = self.network(name)
            node.kernel.ensure_node(network)
            assert node.kernel.ensure_peers(network, network.peers) == [None] * len(network.peers)

    def close(self) -> None:
        for node in self.nodes.values():
            if node._kernel is not None:
                node._kernel.close()
            for pod in node.pods:
                pod.inside.close()
            node.inside.close()
        self.fabric.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def udp_arrives(
    source: Namespace, target: Namespace, address: IPAddress, *, seconds: float = 3.0, forge: IPAddress | None = None
) -> IPAddress | None:
    """Sends datagrams until one arrives; the sender's address as the receiver saw it, None when none came in time."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    raw = (socket.SOCK_RAW, socket.IPPROTO_RAW) if forge else (socket.SOCK_DGRAM, 0)
    with target.socket(family) as receiver, source.socket(family, *raw) as sender:
        receiver.bind((str(address), 0))
        receiver.settimeout(0.05)
        port = receiver.getsockname()[1]
        packet = forged_udp(forge, address, port) if forge else b"podwire"
        clock = SystemClock()
        deadline = clock.monotonic() + seconds
        while clock.monotonic() < deadline:
            with contextlib.suppress(OSError):  # no way there yet
                sender.sendto(packet, (str(address), 0 if forge else port))
            with contextlib.suppress(OSError):  # a timeout, or the answer to an earlier one that found no way
                return ipaddress.ip_address(receiver.recvfrom(100)[1][0])
    return None


def forged_udp(source: IPAddress, target: IPAddress, port: int, payload: bytes = b"forged") -> bytes:
    """An IPv4 UDP datagram with any source; the kernel fills in length and checksum of the header."""
    udp = struct.pack(">HHHH", 4000, port, 8 + len(payload), 0) + payload
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    return head + source.packed + target.packed + udp


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Waits for a condition; an AssertionError when it does not come."""
    clock = SystemClock()
    deadline = clock.monotonic() + seconds
    while not condition():
        assert clock.monotonic() < deadline, "the condition did not come in time"
        clock.pause(0.01)


def failures(results: Sequence[object]) -> list[str]:
    """The messages of the failures in a batch's results."""
    return [result.error.message for result in results if isinstance(result, Failure)]
