"""What packets do on nodes that the real kernel made: reach, keep their source, tunnel, and fail to be forged."""

from __future__ import annotations

import ctypes
import dataclasses
import ipaddress
import os
import socket
from collections.abc import Iterator

import pytest

from nodeagent.kernel.base import Sandbox
from podwire.seams import set_failpoint_handler
from tests.kernel import frames
from tests.kernel.lab import PORT, Lab, Namespace, Pod, udp_arrives, until

pytestmark = pytest.mark.kernel


class Pods:
    """A lab with pods a1, a2, a3 on a and b1 on b."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.up()
        self.a, self.b = lab.nodes["a"], lab.nodes["b"]
        self.a1, self.a2, self.a3 = (self.a.make_pod(f"uid-a{number}", 1 + number) for number in (1, 2, 3))
        self.b1 = self.b.make_pod("uid-b1", 2)
        until(lambda: udp_arrives(self.a1.inside, self.b1.inside, self.b1.address()) is not None)


@pytest.fixture
def pods() -> Iterator[Pods]:
    with Lab() as lab:
        yield Pods(lab)


@pytest.fixture
def unguarded() -> Iterator[Pods]:
    with Lab(guard=False) as lab:
        yield Pods(lab)


def tcp_talks(source: Pod, target: Pod, version: int) -> bool:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    address = str(target.address(version))
    with (
        target.inside.socket(family, socket.SOCK_STREAM) as server,
        source.inside.socket(family, socket.SOCK_STREAM) as client,
    ):
        server.bind((address, 0))
        server.listen()
        server.settimeout(5)
        client.settimeout(5)
        client.connect((address, server.getsockname()[1]))
        accepted, peer = server.accept()
        with accepted:
            accepted.settimeout(5)
            client.sendall(b"x" * 100_000)
            client.shutdown(socket.SHUT_WR)
            received = 0
            while chunk := accepted.recv(65536):
                received += len(chunk)
            return received == 100_000 and ipaddress.ip_address(peer[0]) == source.address(version)


@pytest.mark.parametrize(("ipv6", "underlay6"), [(False, False), (True, False), (True, True)])
def test_all_pairs_ping_and_speak_tcp_and_udp_with_their_own_addresses(*, ipv6: bool, underlay6: bool) -> None:
    with Lab(ipv6=ipv6, underlay6=underlay6) as lab:
        pods = Pods(lab)
        everyone = (pods.a1, pods.a2, pods.b1)
        for version in (4, 6) if ipv6 else (4,):
            for source in everyone:
                for target in everyone:
                    if source is target:
                        continue
                    address = target.address(version)
                    assert udp_arrives(source.inside, target.inside, address) == source.address(version)
                    assert tcp_talks(source, target, version)
                    source.inside.command("ping", "-c1", "-W2", str(address))


def test_between_nodes_packets_are_vxlan_on_the_underlay(pods: Pods) -> None:
    tap = pods.lab.fabric.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with tap:
        tap.bind(("u-a", 3))  # the port of node a on the underlay
        tap.settimeout(5)
        assert udp_arrives(pods.a1.inside, pods.b1.inside, pods.b1.address())
        while frames.inner_source(tap.recv(2000), PORT) != pods.a1.address():
            pass


def test_only_traffic_out_of_the_cluster_is_masqueraded(pods: Pods) -> None:
    router = ipaddress.ip_address("172.30.0.1")
    assert udp_arrives(pods.a1.inside, pods.lab.fabric, router) == pods.a.underlay
    assert udp_arrives(pods.a1.inside, pods.b.inside, pods.b.underlay) == pods.a1.address()
    pods.a1.inside.command("ping", "-c1", "-W2", str(pods.b.underlay))
    assert udp_arrives(pods.b.inside, pods.a1.inside, pods.a1.address()) == ipaddress.ip_address("10.244.2.0")


@pytest.mark.parametrize("target", ["a2", "b1"])
def test_the_pod_mtu_is_what_fits(pods: Pods, target: str) -> None:
    address = str(getattr(pods, target).address())
    fits = pods.a.mtu - 28
    pods.a1.inside.command("ping", "-c1", "-W2", "-M", "do", "-s", str(fits), address)
    assert "too long" in pods.a1.inside.command(
        "ping", "-c1", "-W1", "-M", "do", "-s", str(fits + 1), address, check=False
    )


def neighbour(pod: Pod, address: object) -> str:
    """The MAC a pod holds for an address."""
    words = pod.inside.command("ip", "neigh", "show", str(address)).split()
    return words[words.index("lladdr") + 1] if "lladdr" in words else ""


def send_frame(inside: Namespace, frame: bytes, link: str = "eth0") -> None:
    with inside.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((link, 0))
        for _ in range(5):
            raw.send(frame)


def spoof_arp(pods: Pods) -> str:
    """a2 tells a1 that a3's address is at a2's MAC; whom a1 believes afterwards."""
    until(lambda: udp_arrives(pods.a1.inside, pods.a3.inside, pods.a3.address()) is not None)
    a1, a2 = pods.a1.link.pod_mac, pods.a2.link.pod_mac
    send_frame(pods.a2.inside, frames.arp_reply(a2, a2, pods.a3.address(), a1, pods.a1.address()))
    return neighbour(pods.a1, pods.a3.address())


def test_an_arp_spoof_does_nothing_with_the_guard(pods: Pods) -> None:
    assert spoof_arp(pods) == pods.a3.link.pod_mac
    assert udp_arrives(pods.a1.inside, pods.a3.inside, pods.a3.address()) == pods.a1.address()


def test_an_arp_spoof_succeeds_without_the_guard(unguarded: Pods) -> None:
    until(lambda: spoof_arp(unguarded) == unguarded.a2.link.pod_mac)


def port_of(pods: Pods, mac: str) -> str:
    """The host end behind which the bridge believes a MAC to be."""
    table = pods.a.inside.command("bridge", "fdb", "show", "br", "pw-bridge").splitlines()
    return next((line.split()[2] for line in table if line.startswith(mac)), "")


def clone_mac(pods: Pods) -> str:
    assert udp_arrives(pods.a1.inside, pods.a3.inside, pods.a3.address())
    stolen = frames.mac_bytes(pods.a3.link.pod_mac)
    packet = frames.udp_packet(pods.a3.address(), pods.a1.address(), 9, b"clone")
    send_frame(pods.a2.inside, frames.ethernet(frames.mac_bytes(pods.a1.link.pod_mac), stolen, 0x0800, packet))
    return port_of(pods, pods.a3.link.pod_mac)


def test_a_mac_clone_does_nothing_with_the_guard(pods: Pods) -> None:
    assert clone_mac(pods) == pods.a3.link.name


def test_a_mac_clone_succeeds_without_the_guard(unguarded: Pods) -> None:
    until(lambda: clone_mac(unguarded) == unguarded.a2.link.name)


@pytest.mark.parametrize("guard", [True, False])
def test_a_neighbour_advertisement_for_another_address_is_dropped_by_the_guard(*, guard: bool) -> None:
    with Lab(ipv6=True, guard=guard) as lab:
        pods = Pods(lab)

        def believed() -> str:
            assert udp_arrives(pods.a1.inside, pods.a3.inside, pods.a3.address(6)) or not guard
            frame = frames.neighbour_advertisement(
                pods.a2.link.pod_mac,
                pods.a2.address(6),
                pods.a3.address(6),
                pods.a1.link.pod_mac,
                pods.a1.address(6),
            )
            send_frame(pods.a2.inside, frame)
            return neighbour(pods.a1, pods.a3.address(6))

        if guard:
            assert believed() == pods.a3.link.pod_mac
        else:
            until(lambda: believed() == pods.a2.link.pod_mac)


def forged(pods: Pods, port: int) -> bytes:
    """A VXLAN payload that delivers a datagram from b1 to a1 at node a."""
    inner = frames.udp_packet(pods.b1.address(), pods.a1.address(), port, b"forged")
    target = frames.mac_bytes(pods.a.peer().vtep_mac)
    return frames.vxlan(77, frames.ethernet(target, frames.mac_bytes(pods.b.peer().vtep_mac), 0x0800, inner))


def delivered(pods: Pods, sender: socket.socket) -> bool:
    with pods.a1.inside.socket() as receiver:
        receiver.bind((str(pods.a1.address()), 0))
        receiver.settimeout(0.1)
        payload = forged(pods, receiver.getsockname()[1])
        for _ in range(5):
            sender.sendto(payload, (str(pods.a.underlay), PORT))
            try:
                return receiver.recv(100) == b"forged"
            except TimeoutError:
                continue
    return False


def test_vxlan_from_a_stranger_on_the_underlay_is_dropped(pods: Pods) -> None:
    stranger = pods.lab.host("stranger", 99)
    with stranger.socket() as sender:
        assert not delivered(pods, sender)
        pods.a.inside.command("nft", "delete", "table", "ip", "podwire")
        until(lambda: delivered(pods, sender))  # the forgery itself must be good, or the test shows nothing
        pods.a.kernel.ensure_node(pods.lab.network("a"))
        assert not delivered(pods, sender)
    stranger.close()


def test_vxlan_from_a_pod_is_dropped(pods: Pods) -> None:
    with pods.b1.inside.socket() as sender:
        assert not delivered(pods, sender)
    with pods.a2.inside.socket() as sender:
        assert not delivered(pods, sender)


def nobodys_socket(inside: Namespace) -> socket.socket:
    """A socket as a process without privileges has it: its owner is the file system user of the thread that opens it."""

    def work() -> socket.socket:
        libc = ctypes.CDLL(None)
        libc.setfsuid(65534)  # of this thread alone
        if libc.setfsuid(65534) != 65534:
            pytest.skip("this user namespace has no second user")
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    return inside.run(work)


def test_a_process_without_privileges_on_a_node_forges_nothing_and_still_reaches_pods(pods: Pods) -> None:
    with pods.b.inside.socket() as root, nobodys_socket(pods.b.inside) as nobody:
        until(lambda: delivered(pods, root))  # root on a member may send anything
        with pytest.raises(PermissionError):
            delivered(pods, nobody)
        with pods.a1.inside.socket() as receiver:
            receiver.bind((str(pods.a1.address()), 0))
            receiver.settimeout(5)
            nobody.sendto(b"plain", receiver.getsockname())
            assert receiver.recv(100) == b"plain"


def seen_sources(tap: socket.socket) -> set[bytes]:
    """The source MACs of frames until none comes any more."""
    found = set()
    while True:
        try:
            found.add(tap.recv(2000)[6:12])
        except TimeoutError:
            return found


def test_nothing_passes_before_the_guard_stands(pods: Pods) -> None:
    """An agent that dies between making a pair and guarding it leaves a port that is up, and mute."""
    inside = Namespace()
    sandbox = Sandbox("dying0000000", os.getpid(), 0, inside.inode, inside.path)
    link = pods.a.pod_link("uid-dying", 20, sandbox.slot)

    def die(name: str) -> None:
        if name == "wire.paired":
            raise InterruptedError(name)

    set_failpoint_handler(die)
    try:
        with pytest.raises(InterruptedError):
            pods.a.kernel.wire([link], [sandbox])
    finally:
        set_failpoint_handler(None)
    inside.command("ip", "link", "set", "eth0", "up")
    inside.command("ip", "route", "add", "default", "via", str(link.gateways[0]))
    assert "state UP" in pods.a.inside.command("ip", "link", "show", link.name)
    tap = pods.a2.inside.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with tap:
        tap.bind(("eth0", 3))
        tap.settimeout(0.5)
        assert udp_arrives(inside, pods.a2.inside, pods.a2.address(), seconds=0.5) is None
        source = frames.mac_bytes(link.pod_mac)
        send_frame(inside, frames.ethernet(frames.BROADCAST, source, 0x88B5, bytes(60)))
        assert source not in seen_sources(tap)
    assert pods.a.kernel.wire([link], [sandbox]) == [None]
    assert udp_arrives(inside, pods.a2.inside, pods.a2.address()) == link.addresses[0].ip
    inside.close()


def test_a_changed_rule_is_seen_and_mended_with_all_elements_kept(pods: Pods) -> None:
    network = pods.lab.network("a")
    inside, kernel = pods.a.inside, pods.a.kernel
    for damage in (
        "flush chain bridge podwire from_arp",
        "insert rule bridge podwire guard accept",
        "flush chain ip podwire leaving",
        "add chain ip podwire extra",
        "delete element ip podwire peers { 172.30.0.12 }",
    ):
        inside.command("nft", *damage.split(maxsplit=4))
        assert [name for name in kernel.observe(network).missing if name.startswith("nft")] != [], damage
        assert kernel.ensure_node(network) != []
        assert kernel.observe(network).missing == ()
        assert all(pod.guarded for pod in kernel.observe(network).pods)
        assert udp_arrives(pods.a1.inside, pods.b1.inside, pods.b1.address()) == pods.a1.address()


def test_foreign_objects_survive_everything(pods: Pods) -> None:
    inside, kernel, network = pods.a.inside, pods.a.kernel, pods.lab.network("a")
    inside.command("ip", "link", "add", "vforeign", "type", "veth", "peer", "name", "vforeign2")
    inside.command("ip", "link", "add", "foreign", "type", "bridge")
    inside.command("ip", "link", "set", "foreign", "up")
    inside.command("ip", "link", "set", "vforeign", "master", "foreign", "up")
    inside.command("ip", "addr", "add", "198.51.100.1/24", "dev", "foreign")
    inside.command("ip", "route", "add", "203.0.113.0/24", "via", "172.30.0.1", "proto", "77")
    inside.command("nft", "add table ip foreign; add chain ip foreign c { type nat hook output priority -100; }")
    inside.command("nft", "add rule ip foreign c ip daddr 127.0.0.11 tcp dport 53 dnat to 127.0.0.11:5353")

    def foreign() -> tuple[str, ...]:
        return (
            inside.command("ip", "-br", "link", "show", "foreign"),
            inside.command("ip", "-d", "link", "show", "vforeign"),
            inside.command("ip", "route", "show", "203.0.113.0/24"),
            inside.command("nft", "list", "table", "ip", "foreign"),
        )

    before = foreign()
    seen = kernel.observe(network)
    assert seen.missing == ()
    assert "vforeign" not in {pod.name for pod in seen.pods}
    for table in ("bridge", "ip"):
        inside.command("nft", "delete", "table", table, "podwire")
    inside.command("ip", "link", "del", "pw-vxlan")
    kernel.ensure_node(network)
    kernel.ensure_peers(network, network.peers)
    kernel.reset_guard(network, [pod.link for pod in pods.a.pods])
    assert kernel.delete_links(["vforeign", "foreign"]) == [None, None]
    kernel.delete_peers(kernel.observe(network).peers)
    assert foreign() == before


def test_changed_attributes_make_a_new_tunnel_end(pods: Pods) -> None:
    pods.a.port = 4790
    network = pods.lab.network("a")
    assert "vxlan" in pods.a.kernel.observe(network).missing
    pods.a.kernel.ensure_node(network)
    assert pods.a.kernel.observe(network).missing == ()
    assert "dstport 4790" in pods.a.inside.command("ip", "-d", "link", "show", "pw-vxlan")


def test_turning_the_guard_off_and_on_rewires_pods(pods: Pods) -> None:
    kernel = pods.a.kernel
    for guard in (False, True):
        pods.a.guard = guard
        network = pods.lab.network("a")
        kernel.ensure_node(network)
        links = [dataclasses.replace(pod.link, guard=guard) for pod in pods.a.pods]
        assert kernel.wire(links, [pod.sandbox for pod in pods.a.pods]) == [None] * 3
        assert {(pod.fdb, bool(pod.guarded)) for pod in kernel.observe(network).pods} == {(guard, guard)}
        assert udp_arrives(pods.a1.inside, pods.b1.inside, pods.b1.address()) == pods.a1.address()


def test_the_underlay_and_capabilities_are_found_by_looking(pods: Pods) -> None:
    assert pods.a.kernel.underlay() == ("eth0", (pods.a.underlay,), 1500)
    found = pods.a.kernel.capabilities()
    assert all(found[name][0] for name in ("vxlan", "bridge", "nft-bridge", "nft-ip"))
    assert set(found) == {
        "vxlan", "bridge", "nft-bridge", "nft-ip", "nft-ip6", "bridge-nf", "ipv6", "sctp", "wireguard", "netem",
    }  # fmt: skip


def test_notifications_tell_of_others_changes_and_not_of_our_own(pods: Pods) -> None:
    news = pods.a.kernel.notifications()
    try:
        until(lambda: not news.drain())
        pods.a.kernel.unwire([pods.a1.link.name])
        pods.a.inside.command("nft", "add", "table", "ip", "foreign")
        until(news.drain)
        pods.a.inside.command("ip", "neigh", "flush", "dev", "pw-vxlan", "nud", "permanent")
        until(news.drain)
    finally:
        news.close()
