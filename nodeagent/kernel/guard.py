"""The rules of a node, as values: what the nftables tables of ours say, and which set elements a pod or a node needs.

In: a `NodeNetwork`, pod links. Out: `Table` values (text for libnftables, and what a reading must show for it to be right) and packed
keys for `nft.py`. Pure: nothing here touches the kernel.

Three tables named `podwire`:
  bridge  the guard: a constant chain, deny by default for ports of our interface group, keyed by sets with elements per pod
  ip, ip6 masquerade for what leaves the cluster; fences around the overlay and around 127/8
Each rule carries its ordinal and each table a digest of its text as comment, so that an agent that knows nothing of the past sees a
deleted, inserted or changed rule by reading, and writes nothing where all is right.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nodeagent.kernel.base import NodeNetwork, PodLink
from nodeagent.kernel.nft import SetId, TableReading, pad
from podwire.model.addresses import IPAddress
from podwire.model.names import BRIDGE, NFT_TABLE, VXLAN

PORT_GROUP = 1885  # interface group of host ends: what the guard's rules apply to; the ports of other bridges are not ours to judge
OWN_TRAFFIC_MARK = (
    0x08000000  # set on this node's own packets into the tunnel, so that only they may leave as VXLAN under any user
)

PODS4 = SetId("bridge", NFT_TABLE, "pods4")
PODS6 = SetId("bridge", NFT_TABLE, "pods6")
TARGETS6 = SetId("bridge", NFT_TABLE, "targets6")
_UNSPECIFIED = ipaddress.IPv6Address("::")
_HOOKS = {"prerouting": 0, "output": 3, "postrouting": 4}


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain; `hook` is (type, hook, priority) of a base chain, whose policy is always accept: verdicts are rules, which carry marks."""

    name: str
    hook: tuple[str, str, int] | None
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """One table of ours: its constant part as text, and the sets whose elements come and go."""

    family: str
    sets: tuple[tuple[str, str], ...]  # name, declaration
    chains: tuple[Chain, ...]

    @property
    def digest(self) -> str:
        """Changes with any change of the text."""
        return hashlib.sha256(self._body("", {}).encode()).hexdigest()[:16]

    def commands(self, reading: TableReading | None, elements: Mapping[str, Iterable[str]]) -> str:
        """What makes the table right, for one transaction. A table of this very text keeps its sets, and so what pods may send: only
        its chains are written anew. Any other is replaced whole, with `elements` (as text, by set name) already in it.
        """
        name = f"{self.family} {NFT_TABLE}"
        if reading is None or reading.comment != self.digest or reading.dormant:
            body = self._body(self.digest, elements)
            return f"add table {name}\ndelete table {name}\ntable {name} {{\n{body}}}\n"
        hooks = self._hooks()
        wrong = [chain for chain, hook in reading.chains.items() if hooks.get(chain) != hook]
        lines = [f"flush table {name}", *(f"delete chain {name} {chain}" for chain in wrong)]
        return "\n".join(lines) + f"\ntable {name} {{\n{self._body('', {})}}}\n"

    def _body(self, digest: str, elements: Mapping[str, Iterable[str]]) -> str:
        lines = [f'comment "{digest}"'] if digest else []
        for name, declaration in self.sets:
            held = ", ".join(sorted(elements.get(name, ())))
            lines.append(f"set {name} {{ {declaration} {f'elements = {{ {held} }};' if held else ''} }}")
        # nft wants a chain declared before a rule goes to it: base chains come first in `chains` and last in the text.
        for chain in reversed(self.chains):
            lines.append(f"chain {chain.name} {{")
            if chain.hook:
                kind, hook, priority = chain.hook
                lines.append(f"type {kind} hook {hook} priority {priority}; policy accept;")
            lines += [f'{rule} comment "{number}"' for number, rule in enumerate(chain.rules)]
            lines.append("}")
        return "\n".join(lines) + "\n"

    def _hooks(self) -> dict[str, str]:
        """The chains' hooks as `nft.TableReading` spells them."""
        return {
            chain.name: f"{chain.hook[0]} {_HOOKS[chain.hook[1]]} {chain.hook[2]} 1" if chain.hook else ""
            for chain in self.chains
        }

    def right(self, reading: TableReading | None) -> bool:
        """Whether a reading shows this table whole."""
        if reading is None or reading.comment != self.digest or reading.dormant:
            return False
        if not reading.sets >= {name for name, _ in self.sets}:
            return False
        if dict(reading.chains) != self._hooks():
            return False
        ordinals = {chain.name: tuple(str(number) for number in range(len(chain.rules))) for chain in self.chains}
        return dict(reading.rules) == ordinals


def guard_table() -> Table:
    """The guard. A frame from a pod passes only with the pod's own MAC and address, in its Ethernet header and in ARP and neighbour
    discovery; what no rule lets pass is dropped, so a port without elements is mute.
    """
    return Table(
        family="bridge",
        sets=(
            (PODS4.name, "type ifname . ether_addr . ipv4_addr;"),
            (PODS6.name, "type ifname . ether_addr . ipv6_addr;"),
            (TARGETS6.name, "typeof iifname . ether saddr . @th,64,128;"),
        ),
        chains=(
            Chain(
                "guard",
                ("filter", "prerouting", -300),
                (
                    f"iifgroup != {PORT_GROUP} accept",
                    "ether type vmap { ip : goto from_ip, ip6 : goto from_ip6, arp : goto from_arp }",
                    "counter drop",
                ),
            ),
            Chain(
                "from_ip",
                None,
                (
                    f"iifname . ether saddr . ip saddr != @{PODS4.name} counter drop",
                    "udp sport 67 counter drop",  # a pod is no DHCP server
                ),
            ),
            Chain(
                "from_ip6",
                None,
                (
                    f"iifname . ether saddr . ip6 saddr != @{PODS6.name} counter drop",
                    "ip6 saddr :: icmpv6 type != { 135, 143 } counter drop",  # duplicate address detection and MLD only
                    "icmpv6 type { 134, 137 } counter drop",  # router advertisement, redirect
                    # An advertisement is for the sender's own address (RFC 4861 4.4: the target starts at byte 8).
                    f"icmpv6 type 136 iifname . ether saddr . @th,64,128 != @{TARGETS6.name} counter drop",
                    "udp sport 547 counter drop",  # DHCPv6 server
                ),
            ),
            Chain(
                "from_arp",
                None,
                (
                    f"iifname . ether saddr . arp saddr ip != @{PODS4.name} counter drop",
                    f"iifname . arp saddr ether . arp saddr ip != @{PODS4.name} counter drop",
                ),
            ),
        ),
    )


def node_table(network: NodeNetwork, version: int) -> Table:
    """Masquerade and fences of one IP family. `peers` holds who may send us VXLAN, `nodes` every node's addresses."""
    ip = "ip" if version == 4 else "ip6"
    address = f"ipv{version}_addr"
    port = network.vxlan_port
    encapsulations = ", ".join(str(number) for number in sorted({4789, 8472, 6081, port}))
    inside = sorted({str(cidr) for cidr in (*network.cluster_cidrs, *network.service_cidrs) if cidr.version == version})
    own = sorted(str(cidr) for cidr in network.pod_cidrs if cidr.version == version)
    loopback = "127.0.0.0/8" if version == 4 else "::1"
    tunnelled: list[str] = []  # what comes out of the tunnel has a source that can lie behind it
    if own:
        tunnelled.append(f"iifname {VXLAN} {ip} saddr {{ {', '.join(own)} }} counter drop")
    if inside:
        tunnelled.append(f"iifname {VXLAN} {ip} saddr != {{ {', '.join(inside)} }} {ip} saddr != @nodes counter drop")
    postrouting: list[str] = []
    if own:
        leaving = f"{ip} saddr {{ {', '.join(own)} }} oifname != {{ {BRIDGE}, {VXLAN}, lo }}"
        if inside:
            leaving += f" {ip} daddr != {{ {', '.join(inside)} }}"
        postrouting.append(f"{leaving} {ip} daddr != @nodes masquerade fully-random")
    return Table(
        family=ip,
        sets=(("peers", f"type {address};"), ("nodes", f"type {address};")),
        chains=(
            Chain(
                "fence",
                ("filter", "prerouting", -300),
                (
                    f"iifname != lo {ip} daddr {loopback} counter drop",
                    f"iifname != lo {ip} saddr {loopback} counter drop",
                    # Pods never speak a tunnel protocol to a node: masqueraded, it would look like the node's own.
                    f"iifname {BRIDGE} {ip} daddr @nodes udp dport {{ {encapsulations} }} counter drop",
                    f"iifname {BRIDGE} {ip} daddr @nodes meta l4proto {{ 4, 41, 47 }} counter drop",
                    f"fib daddr type local udp dport {port} {ip} saddr != @peers counter drop",
                    *tunnelled,
                ),
            ),
            Chain(
                "own",
                ("filter", "output", -300),
                (
                    # The encapsulated packet keeps the sending process's socket and the mark: the node's own traffic to remote pods
                    # passes whoever sends it, while a process without privileges (which cannot set a mark) forges nothing.
                    f"oifname {VXLAN} meta mark set meta mark | {OWN_TRAFFIC_MARK:#x}",
                    f"udp dport {port} meta skuid != 0 meta mark & {OWN_TRAFFIC_MARK:#x} == 0 counter drop",
                ),
            ),
            Chain("leaving", ("nat", "postrouting", 100), tuple(postrouting)),
        ),
    )


def tables(network: NodeNetwork) -> tuple[Table, ...]:
    """Every table the node should hold."""
    versions = {cidr.version for cidr in network.pod_cidrs} | {network.underlay.version}
    found = [node_table(network, version) for version in sorted(versions)]
    return (guard_table(), *found) if network.guard else tuple(found)


def node_elements(network: NodeNetwork) -> dict[SetId, frozenset[bytes]]:
    """Elements of `peers` and `nodes`, for the families that have tables."""
    wanted: dict[SetId, frozenset[bytes]] = {}
    for table in tables(network):
        if table.family == "bridge":
            continue
        version = 4 if table.family == "ip" else 6
        peers = _packed((peer.underlay for peer in network.peers), version)
        wanted[SetId(table.family, NFT_TABLE, "peers")] = peers
        wanted[SetId(table.family, NFT_TABLE, "nodes")] = _packed(network.node_addresses, version) | peers
    return wanted


def _packed(addresses: Iterable[IPAddress], version: int) -> frozenset[bytes]:
    return frozenset(address.packed for address in addresses if address.version == version)


def pod_elements(link: PodLink) -> dict[SetId, list[bytes]]:
    """The guard elements of one pod."""
    name = link.name.encode().ljust(16, b"\0")
    mac = bytes.fromhex(link.pod_mac.replace(":", ""))
    found: dict[SetId, list[bytes]] = {}
    for interface in link.addresses:
        address = interface.ip
        if isinstance(address, ipaddress.IPv4Address):
            found.setdefault(PODS4, []).append(pad((name, mac, address.packed)))
            continue
        local = link_local(mac)
        found.setdefault(PODS6, []).extend(pad((name, mac, each.packed)) for each in (address, local, _UNSPECIFIED))
        found.setdefault(TARGETS6, []).extend(pad((name, mac, each.packed)) for each in (address, local))
    return {target: list(dict.fromkeys(keys)) for target, keys in found.items()}


def elements_of(links: Sequence[PodLink]) -> dict[SetId, set[bytes]]:
    """The guard elements of many pods; every set is named, so that comparing also finds what is too much."""
    found: dict[SetId, set[bytes]] = {PODS4: set(), PODS6: set(), TARGETS6: set()}
    for link in links:
        if link.guard:
            for target, keys in pod_elements(link).items():
                found[target].update(keys)
    return found


def element_text(target: SetId, key: bytes) -> str:
    """An element as nft's grammar has it."""
    if target.family != "bridge":
        return str(ipaddress.ip_address(key))
    mac = ":".join(f"{byte:02x}" for byte in element_mac(key))
    last = f"{int.from_bytes(key[24:], 'big'):#x}" if target == TARGETS6 else str(element_address(key))
    return f'"{element_name(key)}" . {mac} . {last}'


def element_name(key: bytes) -> str:
    """The host end's name in a guard element."""
    return key[:16].rstrip(b"\0").decode(errors="replace")


def element_mac(key: bytes) -> bytes:
    """The pod's MAC in a guard element."""
    return key[16:22]


def element_address(key: bytes) -> IPAddress:
    """The address in a guard element."""
    return ipaddress.ip_address(key[24:])


def link_local(mac: bytes) -> ipaddress.IPv6Address:
    """The link-local address a MAC gives (RFC 4291, appendix A)."""
    return ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes((mac[0] ^ 2,)) + mac[1:3] + b"\xff\xfe" + mac[3:6])
