"""A kernel in memory: the same verbs as the real one, over a state that can be damaged, restarted and asked about.

In: the verbs of `Kernel` and `Sandboxes`. Out: observations, and through `fake_path.py` the answer to "does this packet arrive?". It
passes the contract tests of the real kernel (tests/kernel/contract.py), so that a controller and many agents run in one process. `lose`
damages one object as another program would, `refuse` makes the kernel refuse, `reboot` is the end of the node's container, and `writes`
counts changes, so that a test can show that there were none.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from nodeagent.kernel import guard, node
from nodeagent.kernel.base import (
    Failure,
    NodeNetwork,
    Observed,
    ObservedPeer,
    ObservedPodEnd,
    ObservedPodLink,
    Peer,
    PodLink,
    Sandbox,
)
from nodeagent.kernel.fake_path import OUTSIDE, Arrival, arrives
from nodeagent.kernel.fake_sandboxes import FakeSandboxes
from nodeagent.kernel.fake_state import FakeBridge, FakeEnd, FakeFabric, FakeNode, FakePort, FakeTunnel, empty
from podwire.errors import KernelError
from podwire.model.addresses import IPAddress, IPInterface, IPNetwork, gateway_interface, vtep_address
from podwire.seams import failpoint

_K = TypeVar("_K")
_V = TypeVar("_V")
_NAMES = ("vxlan", "bridge", "nft-bridge", "nft-ip", "nft-ip6", "bridge-nf", "ipv6", "sctp", "wireguard", "netem")


__all__ = ["OUTSIDE", "Arrival", "FakeFabric", "FakeKernel", "FakeSandboxes", "arrives"]


class FakeKernel(FakeNode):
    """`Kernel` in memory, at one address of the underlay."""

    def __init__(self, fabric: FakeFabric, underlay: IPAddress, *, link: str = "eth0", mtu: int = 1500) -> None:
        super().__init__(fabric, underlay, link=link, mtu=mtu)
        self._owners: dict[IPNetwork, str] = {}

    def close(self) -> None:
        """Nothing is held."""

    def _refused(self, verb: str, obj: str) -> Failure | None:
        error = self.refuse(verb, obj) if self.refuse else None
        return Failure(error) if error else None

    # --- reading ------------------------------------------------------------------------------------------------------------------

    def underlay(self) -> tuple[str, tuple[IPAddress, ...], int]:
        return self.underlay_link, (self.underlay_address,), self.underlay_mtu

    def capabilities(self) -> dict[str, tuple[bool, str]]:
        return dict.fromkeys(_NAMES, (True, "in memory"))

    def observe(self, network: NodeNetwork) -> Observed:
        refused = self._refused("observe", network.node)
        if refused:
            raise refused.error
        return Observed(
            missing=tuple(name for name, _ in self._repairs(network)),
            peers=tuple(self._peers()),
            pods=tuple(self._pod(port) for port in self.ports.values()),
            stray_guard=frozenset(self.stray),
            pod_mtu=self.bridge.mtu if self.bridge else 0,
        )

    def _pod(self, port: FakePort) -> ObservedPodLink:
        link = port.link
        neighbours = self.bridge.neighbours if self.bridge else {}
        return ObservedPodLink(
            name=link.name,
            index=port.index,
            uid=link.uid,
            generation=link.generation,
            slot=link.slot,
            up=port.up,
            on_bridge=port.on_bridge,
            host_mac=link.host_mac,
            mtu=link.mtu,
            fdb=port.static,
            neighbours=frozenset(address for address, mac in neighbours.items() if mac == link.pod_mac),
            guarded=frozenset(port.guarded),
        )

    def _peers(self) -> list[ObservedPeer]:
        tunnel = self.tunnel
        if tunnel is None:
            return []
        neighbours: dict[str, set[IPAddress]] = {}
        for address, mac in tunnel.neighbours.items():
            neighbours.setdefault(mac, set()).add(address)
        routes: dict[str, set[IPNetwork]] = {}
        for cidr in tunnel.routes:
            routes.setdefault(self._owners.get(cidr) or tunnel.neighbours.get(vtep_address(cidr), ""), set()).add(cidr)
        return [
            ObservedPeer(
                mac, tunnel.entries.get(mac), frozenset(neighbours.get(mac, ())), frozenset(routes.get(mac, ()))
            )
            for mac in sorted({*tunnel.entries, *neighbours, *routes})
        ]

    def observe_ends(self, sandboxes: Sequence[Sandbox]) -> list[ObservedPodEnd | Failure]:
        found: list[ObservedPodEnd | Failure] = []
        for sandbox in sandboxes:
            end = self._end(sandbox)
            if isinstance(end, Failure):
                found.append(end)
                continue
            found.append(
                ObservedPodEnd(
                    slot=sandbox.slot,
                    eth0_mac=end.mac,
                    eth0_up=end.up,
                    lo_up=end.lo_up,
                    mtu=end.mtu,
                    addresses=frozenset(end.addresses),
                    default_gateways=frozenset(end.gateways),
                    gateway_neighbours=frozenset(end.neighbours),
                )
            )
        return found

    def _end(self, sandbox: Sandbox) -> FakeEnd | Failure:
        end = self.ends.get(sandbox.slot)
        if end is None or "pin" not in end.held_by:
            return Failure(KernelError(errno.ENOENT, "open network namespace", sandbox.pin))
        if end.inode != sandbox.netns_inode:
            return Failure(KernelError(errno.ESTALE, "open network namespace", sandbox.pin, "it is another one"))
        return end

    # --- the node -----------------------------------------------------------------------------------------------------------------

    def ensure_node(self, network: NodeNetwork) -> list[str]:
        changed: list[str] = []
        while wanted := self._repairs(network):
            for name, repair in wanted:
                failpoint("node.repair")
                refused = self._refused("make", name)
                if refused:
                    raise refused.error
                repair()
                self.writes += 1
                changed.append(f"made {name} as it should be")
        return list(dict.fromkeys(changed))

    def _repairs(self, network: NodeNetwork) -> list[tuple[str, Callable[[], None]]]:
        """What is missing by name, with what mends it."""
        self._owners = {cidr: peer.vtep_mac for peer in network.peers for cidr in peer.pod_cidrs}
        found: list[tuple[str, Callable[[], None]]] = []
        tables = {table.family: table.digest for table in guard.tables(network)}
        found += [
            (f"nft table {family} podwire", partial(self._table, family, tables))
            for family in ("bridge", "ip", "ip6")
            if self.tables.get(family) != tables.get(family)
        ]
        for target, keys in guard.node_elements(network).items():
            name = f"{target.family} {target.name}"
            if target.family in self.tables and self.sets.get(name, set()) != keys:
                mend = partial(self.sets.__setitem__, name, set(keys))
                found.append((f"nft set {target.family} podwire {target.name}", mend))
        found += self._bridge_repairs(network)
        found += self._tunnel_repairs(network)
        found += [
            (f"sysctl {name}", partial(self.sysctls.__setitem__, name, value))
            for name, value in node.wanted_sysctls(network).items()
            if self.sysctls.get(name) != value
        ]
        return found

    def _table(self, family: str, wanted: dict[str, str]) -> None:
        if family not in wanted:
            self.tables.pop(family, None)
        else:
            self.tables[family] = wanted[family]
        if family == "bridge":
            held = self.tables.get(family) is not None
            for port in self.ports.values():
                port.guarded = port.guarded if held else set()

    def _bridge_repairs(self, network: NodeNetwork) -> list[tuple[str, Callable[[], None]]]:
        bridge = self.bridge
        if bridge is None:

            def make() -> None:
                self.bridge = FakeBridge(network.bridge_mac, network.pod_mtu)

            return [("bridge", make)]
        if (bridge.mac, bridge.mtu) != (network.bridge_mac, network.pod_mtu):

            def mend() -> None:
                bridge.mac, bridge.mtu = network.bridge_mac, network.pod_mtu

            return [("bridge", mend)]
        wanted = {gateway_interface(cidr) for cidr in network.pod_cidrs}
        return _address_repairs("bridge", bridge.addresses, wanted)

    def _tunnel_repairs(self, network: NodeNetwork) -> list[tuple[str, Callable[[], None]]]:
        tunnel = self.tunnel
        asked = (network.vtep_mac, network.pod_mtu, network.vni, network.vxlan_port, network.underlay)
        if tunnel is None or (tunnel.mac, tunnel.mtu, tunnel.vni, tunnel.port, tunnel.local) != asked:

            def make() -> None:
                self.tunnel = FakeTunnel(*asked)

            return [("vxlan", make)]
        wanted = {ipaddress.ip_interface(vtep_address(cidr)) for cidr in network.pod_cidrs}
        return _address_repairs("vxlan", tunnel.addresses, wanted)

    def ensure_peers(self, network: NodeNetwork, peers: Sequence[Peer]) -> list[Failure | None]:
        tunnel = self.tunnel
        if tunnel is None:
            error = KernelError(
                errno.ENODEV, "add peers to", "pw-vxlan", "there is no tunnel end; ensure_node makes it"
            )
            return [Failure(error) for _ in peers]
        failpoint("peers.ensure")
        for target, keys in guard.node_elements(network).items():
            there = self.sets.setdefault(f"{target.family} {target.name}", set())
            self.writes += len(keys - there)
            there |= keys
        results: list[Failure | None] = []
        for peer in peers:
            refused = self._refused("ensure", f"peer {peer.node}")
            results.append(refused)
            if refused:
                continue
            wanted = {vtep_address(cidr) for cidr in peer.pod_cidrs}
            for address in [each for each, mac in tunnel.neighbours.items() if mac == peer.vtep_mac]:
                if address not in wanted:
                    del tunnel.neighbours[address]
                    self.writes += 1
            stale = {cidr for seen in self._peers() if seen.vtep_mac == peer.vtep_mac for cidr in seen.routes}
            tunnel.routes -= stale - set(peer.pod_cidrs)
            for address in sorted(wanted, key=str):
                self._set(tunnel.neighbours, address, peer.vtep_mac)
            self._set(tunnel.entries, peer.vtep_mac, peer.underlay)
            self.writes += len(set(peer.pod_cidrs) - tunnel.routes)
            tunnel.routes |= set(peer.pod_cidrs)
        return results

    def _set(self, mapping: dict[_K, _V], key: _K, value: _V) -> None:
        if mapping.get(key) != value:
            mapping[key] = value
            self.writes += 1

    def delete_peers(self, peers: Sequence[ObservedPeer]) -> list[Failure | None]:
        failpoint("peers.delete")
        results: list[Failure | None] = []
        for peer in peers:
            refused = self._refused("delete", f"peer {peer.vtep_mac}")
            results.append(refused)
            if refused or self.tunnel is None:
                continue
            tunnel = self.tunnel
            self.writes += 1
            tunnel.routes -= peer.routes
            if tunnel.entries.get(peer.vtep_mac) == peer.underlay:
                tunnel.entries.pop(peer.vtep_mac, None)
            for address in peer.neighbours:
                if tunnel.neighbours.get(address) == peer.vtep_mac:
                    del tunnel.neighbours[address]
        return results

    # --- pods ---------------------------------------------------------------------------------------------------------------------

    def wire(self, links: Sequence[PodLink], sandboxes: Sequence[Sandbox]) -> list[Failure | None]:
        if self.bridge is None:
            missing = KernelError(errno.ENODEV, "wire pods to", "pw-bridge", "there is no bridge; ensure_node makes it")
            return [Failure(missing) for _ in links]
        results: list[Failure | None] = []
        pairs: list[tuple[PodLink, FakeEnd] | None] = []
        for link, sandbox in zip(links, sandboxes, strict=True):
            end = self._end(sandbox)
            refused = end if isinstance(end, Failure) else self._refused("wire", f"pod link {link.name}")
            results.append(refused)
            pairs.append(None if refused or isinstance(end, Failure) else (link, end))
            if not refused and not isinstance(end, Failure):
                self._pair(link, sandbox.slot, end)
        failpoint("wire.paired")
        for place, pair in enumerate(pairs):
            if pair and pair[0].guard and "bridge" not in self.tables:
                results[place] = Failure(KernelError(errno.ENOENT, "change", "nft set bridge podwire pods4"))
                pairs[place] = None
            elif pair:
                self._guard(pair[0])
        failpoint("wire.guarded")
        for pair in pairs:
            if pair:
                self._port(pair[0])
        failpoint("wire.ported")
        for pair in pairs:
            if pair:
                self._rise(*pair)
        return results

    def _pair(self, link: PodLink, slot: str, end: FakeEnd) -> None:
        port = self.ports.get(link.name)
        if port is None or port.slot != slot or end.mac is None:
            if port is not None and port.slot in self.ends:
                empty(self.ends[port.slot])
            for name in [name for name, other in self.ports.items() if other.slot == slot]:
                del self.ports[name]
            self.ports[link.name] = FakePort(link, self.next_number(), slot, guarded=self.stray.pop(link.name, set()))
            end.mac, end.mtu, end.lo_up, end.up = link.pod_mac, link.mtu, True, False
            end.addresses, end.gateways, end.neighbours = set(link.addresses), set(), {}
            self.writes += 1
            return
        self._update(end, mac=link.pod_mac, mtu=link.mtu, lo_up=True)
        wanted = set(link.addresses)
        kept = {have for have in end.addresses if not any(have.ip == want.ip and have != want for want in wanted)}
        self._update(end, addresses=kept | wanted)

    def _update(self, target: object, **values: object) -> None:
        for name, value in values.items():
            if getattr(target, name) != value:
                setattr(target, name, value)
                self.writes += 1

    def _guard(self, link: PodLink) -> None:
        wanted = {interface.ip for interface in link.addresses} if link.guard else set()
        self._update(self.ports[link.name], guarded=wanted)

    def _port(self, link: PodLink) -> None:
        self._update(self.ports[link.name], link=link, up=True, on_bridge=True, static=link.guard)
        if self.bridge:
            for interface in link.addresses:
                self._set(self.bridge.neighbours, interface.ip, link.pod_mac)

    def _rise(self, link: PodLink, end: FakeEnd) -> None:
        self._update(end, up=True, gateways=end.gateways | set(link.gateways))
        for gateway in link.gateways:
            self._set(end.neighbours, gateway, link.gateway_mac)

    def unwire(self, names: Sequence[str]) -> list[Failure | None]:
        failpoint("unwire.guard")
        results: list[Failure | None] = []
        for name in names:
            refused = self._refused("unwire", f"pod link {name}")
            results.append(refused)
            self.stray.pop(name, None)
            port = self.ports.get(name)
            if port is not None and not refused:
                self._update(port, guarded=set(), up=False)
                self._forget_neighbours({address for address, mac in self._neighbours() if mac == port.link.pod_mac})
        failpoint("unwire.links")
        return results

    def _neighbours(self) -> list[tuple[IPAddress, str]]:
        return list(self.bridge.neighbours.items()) if self.bridge else []

    def _forget_neighbours(self, addresses: set[IPAddress]) -> None:
        for address in addresses:
            if self.bridge and self.bridge.neighbours.pop(address, None):
                self.writes += 1

    def delete_links(self, names: Sequence[str]) -> list[Failure | None]:
        failpoint("links.delete")
        results: list[Failure | None] = []
        for name in names:
            refused = self._refused("delete", f"link {name}")
            results.append(refused)
            if not refused and name in self.ports:
                self.drop_port(name)
                self.writes += 1
        return results

    def reset_guard(self, network: NodeNetwork, links: Sequence[PodLink]) -> None:
        kept = {interface.ip for link in links for interface in link.addresses}
        self._forget_neighbours({address for address, _ in self._neighbours()} - kept)
        if not network.guard:
            return
        if "bridge" not in self.tables:
            raise KernelError(errno.ENOENT, "reset", "nft set pods4", "ensure_node makes the guard's table")
        wanted = {link.name: {interface.ip for interface in link.addresses} for link in links if link.guard}
        for name, port in self.ports.items():
            self._update(port, guarded=wanted.pop(name, set()))
        self._update(self, stray=wanted)


def _address_repairs(
    what: str, there: set[IPInterface], wanted: set[IPInterface]
) -> list[tuple[str, Callable[[], None]]]:
    def set_to(values: set[IPInterface]) -> Callable[[], None]:
        def act() -> None:
            there.clear()
            there.update(values)

        return act

    return [(f"{what} address {interface}", set_to(wanted)) for interface in sorted(there ^ wanted, key=str)]
