"""The real kernel of one node: netlink and nftables behind the `Kernel` protocol.

In: verbs with frozen values. Out: what the kernel answered. All handles are opened once, inside the node's network namespace, and stay
bound to it. Comparison is in `node.py`, pods in `attach.py`, probing in `probe.py`; this module reads, sends and names failures.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from nodeagent.kernel import guard, netns, node, probe, rtnl, rtnl_read, sysctl
from nodeagent.kernel.attach import Attacher, index_of, read_inside
from nodeagent.kernel.base import (
    Failure,
    NodeNetwork,
    Observed,
    ObservedPeer,
    ObservedPodEnd,
    Peer,
    PodLink,
    Sandbox,
)
from nodeagent.kernel.netlink import NetlinkSocket, Refusal
from nodeagent.kernel.nft import NftSocket, SetId, TableReading, run_commands
from nodeagent.kernel.notify import Notifications
from podwire.errors import KernelError
from podwire.model.addresses import IPAddress, vtep_address
from podwire.model.names import BRIDGE, NFT_TABLE, POD_LINK_PREFIX, VXLAN
from podwire.seams import failpoint

__all__ = ["LinuxKernel", "Notifications"]

_T = TypeVar("_T")
_PODS_AT_ONCE = 256  # a descriptor each; the usual soft limit is 1024
_ROUNDS = 6  # of reading and repairing: each makes the prerequisites of the next


class LinuxKernel:
    """`Kernel` for the namespace at `netns_path`, or the one it is opened in. Not for two threads at once."""

    def __init__(self, netns_path: Path | None = None) -> None:
        self._netns = netns.open_current() if netns_path is None else os.open(netns_path, os.O_RDONLY | os.O_CLOEXEC)
        self._elsewhere = netns_path is not None
        self._rtnl = self._inside(NetlinkSocket)
        self._nft_socket: NftSocket | None = None
        self._nft_seen: tuple[int, dict[str, TableReading | None], dict[SetId, frozenset[bytes]]] | None = None
        self._attacher = Attacher(self._rtnl, self._nft, self._netns, ipv6=Path("/proc/sys/net/ipv6").is_dir())
        self._capabilities: dict[str, tuple[bool, str]] | None = None

    def _inside(self, work: Callable[[], _T]) -> _T:
        return netns.run_in(self._netns, work) if self._elsewhere else work()

    def _nft(self) -> NftSocket:
        if self._nft_socket is None:
            self._nft_socket = self._inside(NftSocket)
        return self._nft_socket

    def close(self) -> None:
        self._rtnl.close()
        if self._nft_socket is not None:
            self._nft_socket.close()
        os.close(self._netns)

    # --- reading ------------------------------------------------------------------------------------------------------------------

    def underlay(self) -> tuple[str, tuple[IPAddress, ...], int]:
        links = {link.index: link for link in rtnl_read.read_links(self._rtnl)}
        addresses: dict[int, list[IPAddress]] = {}
        for address in rtnl_read.read_addresses(self._rtnl):
            link = links.get(address.index)
            ours = link is None or link.name in {BRIDGE, VXLAN, "lo"} or node.is_host_end(link)
            if address.global_scope and not ours:
                addresses.setdefault(address.index, []).append(address.interface.ip)
        defaults = [
            route
            for family in (rtnl.AF_INET, rtnl.AF_INET6)
            for route in sorted(rtnl_read.read_routes(self._rtnl, family), key=lambda route: route.metric)
            if route.network is None and route.index in addresses
        ]
        if defaults:
            index = defaults[0].index
        elif len(addresses) == 1:
            index = next(iter(addresses))
        else:
            named = [link for link in addresses if links[link].name == "eth0"]
            if len(named) != 1:
                names = ", ".join(sorted(links[index].name for index in addresses)) or "none"
                detail = f"no default route, and the links with addresses are {names}"
                raise KernelError(errno.ENODEV, "find", "the underlay link", detail)
            index = named[0]
        ordered = sorted(addresses[index], key=lambda address: address.version)  # stable: first the kernel's primary
        return links[index].name, tuple(ordered), links[index].mtu

    def capabilities(self) -> dict[str, tuple[bool, str]]:
        if self._capabilities is None:
            self._capabilities = probe.capabilities()
        return dict(self._capabilities)

    def observe(self, network: NodeNetwork) -> Observed:
        return node.observed(network, self._read(network))

    def _read(self, network: NodeNetwork) -> node.Reading:
        links = {link.name: link for link in rtnl_read.read_links(self._rtnl)}
        bridge, vxlan = links.get(BRIDGE), links.get(VXLAN)
        families = sorted({rtnl.family(cidr) for cidr in (*network.pod_cidrs, *network.cluster_cidrs)})
        routes = [
            route
            for family in families
            for route in (rtnl_read.read_routes(self._rtnl, family, link=vxlan.index) if vxlan else ())
        ]
        tables, elements = self._read_nft()
        names = node.wanted_sysctls(network)
        return node.Reading(
            links=links,
            addresses=tuple(rtnl_read.read_addresses(self._rtnl)),
            routes=tuple(routes),
            neighbours=tuple(rtnl_read.read_neighbours(self._rtnl)),
            ports=tuple(rtnl_read.read_bridge_entries(self._rtnl, bridge.index)) if bridge else (),
            tunnels=tuple(rtnl_read.read_tunnel_entries(self._rtnl, vxlan.index)) if vxlan else (),
            tables=tables,
            elements=elements,
            sysctls=self._inside(lambda: {name: sysctl.read(name) for name in names}),
        )

    def _read_nft(self) -> tuple[dict[str, TableReading | None], dict[SetId, frozenset[bytes]]]:
        """Reads nothing when no transaction of anyone happened since the last reading."""
        socket = self._nft()
        for _ in range(20):
            generation = socket.generation()
            if self._nft_seen is not None and self._nft_seen[0] == generation:
                break
            tables = {family: socket.table(family, NFT_TABLE) for family in ("bridge", "ip", "ip6")}
            elements: dict[SetId, frozenset[bytes]] = {}
            for family, table in tables.items():
                for name in sorted(table.sets) if table else ():
                    target = SetId(family, NFT_TABLE, name)
                    found = None if name.startswith("__") else socket.elements(target)
                    if found is not None:
                        elements[target] = frozenset(found)
            if socket.generation() == generation:
                self._nft_seen = generation, tables, elements
                break
        else:
            raise KernelError(errno.EAGAIN, "read", "the nftables ruleset", "it changed during each of 20 attempts")
        return self._nft_seen[1], self._nft_seen[2]

    def observe_ends(self, sandboxes: Sequence[Sandbox]) -> list[ObservedPodEnd | Failure]:
        found: list[ObservedPodEnd | Failure] = []
        for start in range(0, len(sandboxes), _PODS_AT_ONCE):
            found += self._observe_ends(sandboxes[start : start + _PODS_AT_ONCE])
        return found

    def _observe_ends(self, sandboxes: Sequence[Sandbox]) -> list[ObservedPodEnd | Failure]:
        found: list[ObservedPodEnd | Failure] = []
        pins = [(sandbox.pin, sandbox.netns_inode) for sandbox in sandboxes]
        for sandbox, opened in zip(sandboxes, netns.sockets(pins), strict=True):
            if isinstance(opened, KernelError):
                found.append(Failure(opened))
                continue
            try:
                side = read_inside(opened)
            except KernelError as error:
                found.append(Failure(error))
                continue
            finally:
                opened.close()
            eth0 = side.eth0
            found.append(
                ObservedPodEnd(
                    slot=sandbox.slot,
                    eth0_mac=eth0.mac if eth0 else None,
                    eth0_up=eth0.up if eth0 else False,
                    lo_up=side.lo_up,
                    mtu=eth0.mtu if eth0 else 0,
                    addresses=side.addresses,
                    default_gateways=side.default_gateways,
                    gateway_neighbours=frozenset(side.neighbours),
                )
            )
        return found

    # --- the node -----------------------------------------------------------------------------------------------------------------

    def ensure_node(self, network: NodeNetwork) -> list[str]:
        changed: list[str] = []
        for _ in range(_ROUNDS):
            wanted = node.repairs(network, self._read(network))
            if not wanted:
                return list(dict.fromkeys(changed))
            for repair in wanted:
                self._repair(repair)
                changed.append(f"set {repair.name}" if repair.sysctl else f"made {repair.name} as it should be")
        left = ", ".join(repair.name for repair in node.repairs(network, self._read(network)))
        if left:
            raise KernelError(errno.EBUSY, "ensure", left, f"still not as asked after {_ROUNDS} rounds")
        return list(dict.fromkeys(changed))

    def _repair(self, repair: node.Repair) -> None:
        failpoint("node.repair")
        if repair.commands:
            self._inside(lambda: run_commands(repair.commands, repair.name))
        if repair.add or repair.delete:
            self._nft().change(repair.add, repair.delete)
        if repair.sysctl:
            name, value = repair.sysctl
            self._inside(lambda: sysctl.write(name, value))
        for refused in self._rtnl.request(repair.messages):
            if refused is not None and refused.errno != errno.EEXIST:
                raise refused.error("make", repair.name)

    def ensure_peers(self, network: NodeNetwork, peers: Sequence[Peer]) -> list[Failure | None]:
        link = index_of(self._rtnl, VXLAN)
        if not link:
            error = KernelError(errno.ENODEV, "add peers to", VXLAN, "there is no tunnel end; ensure_node makes it")
            return [Failure(error) for _ in peers]
        reading = self._read(network)
        there = {peer.vtep_mac: peer for peer in node.peers(network, reading)}
        for repair in node.repairs(network, reading):
            if repair.add:  # who may send us tunnelled packets; what is too much waits for ensure_node
                self._nft().change(repair.add)
        plans: list[list[bytes]] = []
        for peer in peers:
            found = there.get(peer.vtep_mac, ObservedPeer(peer.vtep_mac, None, frozenset(), frozenset()))
            tunnel_ends = {vtep_address(cidr) for cidr in peer.pod_cidrs}
            plan = [
                rtnl.delete_peer_route(link, cidr, vtep_address(cidr)) for cidr in found.routes - set(peer.pod_cidrs)
            ]
            plan += [rtnl.delete_neighbour(link, address) for address in found.neighbours - tunnel_ends]
            plan += [
                rtnl.set_neighbour(link, address, peer.vtep_mac)
                for address in sorted(tunnel_ends - found.neighbours, key=str)
            ]
            if found.underlay != peer.underlay:
                plan.append(rtnl.set_tunnel_entry(link, peer.vtep_mac, peer.underlay))
            plan += [
                rtnl.add_peer_route(link, cidr, vtep_address(cidr))
                for cidr in peer.pod_cidrs
                if cidr not in found.routes
            ]
            plans.append(plan)
        failpoint("peers.ensure")
        return self._batches(
            plans, "make the way to", [f"peer {peer.node}" for peer in peers], ignore=(errno.ESRCH, errno.ENOENT)
        )

    def delete_peers(self, peers: Sequence[ObservedPeer]) -> list[Failure | None]:
        link = index_of(self._rtnl, VXLAN)
        if not link:
            return [None for _ in peers]
        macs = {entry.address: entry.mac for entry in rtnl_read.read_neighbours(self._rtnl, link=link)}
        plans: list[list[bytes]] = []
        for peer in peers:
            plan = [rtnl.delete_peer_route(link, cidr, vtep_address(cidr)) for cidr in sorted(peer.routes, key=str)]
            if peer.underlay is not None:
                plan.append(rtnl.delete_tunnel_entry(link, peer.vtep_mac, peer.underlay))
            plan += [
                rtnl.delete_neighbour(link, address)
                for address in sorted(peer.neighbours, key=str)
                if macs.get(address) == peer.vtep_mac
            ]
            plans.append(plan)
        failpoint("peers.delete")
        gone = (errno.ENOENT, errno.ESRCH)
        names = [f"peer {peer.vtep_mac}" for peer in peers]
        return self._batches(plans, "remove the way to", names, ignore=gone)

    def _batches(
        self, plans: Sequence[Sequence[bytes]], operation: str, names: Sequence[str], *, ignore: Sequence[int]
    ) -> list[Failure | None]:
        """Sends the messages of many items in one datagram and gives each item its own result."""
        results = iter(self._rtnl.request([packed for plan in plans for packed in plan]))
        found: list[Failure | None] = []
        for plan, name in zip(plans, names, strict=True):
            refusals: list[Refusal] = [
                refused for _ in plan if (refused := next(results)) is not None and refused.errno not in ignore
            ]
            found.append(Failure(refusals[0].error(operation, name)) if refusals else None)
        return found

    # --- pods ---------------------------------------------------------------------------------------------------------------------

    def wire(self, links: Sequence[PodLink], sandboxes: Sequence[Sandbox]) -> list[Failure | None]:
        results: list[Failure | None] = []
        for start in range(0, len(links), _PODS_AT_ONCE):
            part = slice(start, start + _PODS_AT_ONCE)
            results += self._attacher.wire(links[part], sandboxes[part])
        return results

    def unwire(self, names: Sequence[str]) -> list[Failure | None]:
        fenced = set(names)
        delete: dict[SetId, set[bytes]] = {}
        indices = [index_of(self._rtnl, name) for name in names]
        bridge = index_of(self._rtnl, BRIDGE)
        entries = rtnl_read.read_bridge_entries(self._rtnl, bridge) if bridge else []
        macs = {entry.mac for entry in entries if entry.index in indices and not entry.state & rtnl.PERMANENT}
        for target in (guard.PODS4, guard.PODS6, guard.TARGETS6):
            there = self._nft().elements(target) or set()
            delete[target] = {key for key in there if guard.element_name(key) in fenced}
            macs |= {rtnl.mac_text(guard.element_mac(key)) for key in delete[target]}
        failpoint("unwire.guard")
        try:
            self._nft().change({}, delete)
        except KernelError as error:
            return [Failure(error) for _ in names]
        failpoint("unwire.links")
        self._forget_neighbours(bridge, lambda entry: entry.mac in macs)
        plans = [[rtnl.set_link(index, up=False)] if index else [] for index in indices]
        return self._batches(plans, "take down", names, ignore=(errno.ENODEV,))

    def delete_links(self, names: Sequence[str]) -> list[Failure | None]:
        plans: list[list[bytes]] = []
        for name in names:
            index = index_of(self._rtnl, name) if name.startswith(POD_LINK_PREFIX) else 0
            found = rtnl_read.read_link(self._rtnl, index) if index else None
            plans.append([rtnl.delete_link(index)] if found is not None and node.is_host_end(found) else [])
        failpoint("links.delete")
        return self._batches(plans, "delete link", names, ignore=(errno.ENODEV,))

    def reset_guard(self, network: NodeNetwork, links: Sequence[PodLink]) -> None:
        wanted_neighbours = {interface.ip for link in links for interface in link.addresses}
        self._forget_neighbours(index_of(self._rtnl, BRIDGE), lambda entry: entry.address not in wanted_neighbours)
        if not network.guard:
            return
        add: dict[SetId, set[bytes]] = {}
        delete: dict[SetId, set[bytes]] = {}
        for target, wanted in guard.elements_of(links).items():
            there = self._nft().elements(target)
            if there is None:
                raise KernelError(
                    errno.ENOENT, "reset", f"nft set {target.name}", "ensure_node makes the guard's table"
                )
            add[target], delete[target] = wanted - there, there - wanted
        self._nft().change(add, delete)

    def _forget_neighbours(self, bridge: int, stale: Callable[[rtnl_read.Neighbour], bool]) -> None:
        """Permanent entries of pods that are gone would lead their addresses' next owners' packets nowhere."""
        found = rtnl_read.read_neighbours(self._rtnl, link=bridge) if bridge else []
        self._rtnl.request(
            [
                rtnl.delete_neighbour(bridge, entry.address)
                for entry in found
                if entry.address is not None and entry.state & rtnl.PERMANENT and stale(entry)
            ]
        )

    # --- news ---------------------------------------------------------------------------------------------------------------------

    def notifications(self) -> Notifications:
        """Tells when to look; the caller closes it."""
        return self._inside(lambda: Notifications(self._own_ports))

    def _own_ports(self) -> set[int]:
        return {self._rtnl.port, *((self._nft_socket.port,) if self._nft_socket else ())}
