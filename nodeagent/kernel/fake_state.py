"""What a fake node holds, and how tests damage it.

In: nothing but the kernel's verbs (`fake.py`) and tests change it. Out: plain mutable records, which `fake_path.py` walks. `lose` does
what another program on the node might do, in the words of the contract tests.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from nodeagent.kernel.base import PodLink
from podwire.errors import KernelError
from podwire.model.addresses import IPAddress, IPInterface, IPNetwork


@dataclass(slots=True)
class FakeBridge:
    """The node's bridge."""

    mac: str
    mtu: int
    addresses: set[IPInterface] = field(default_factory=set)
    neighbours: dict[IPAddress, str] = field(default_factory=dict)


@dataclass(slots=True)
class FakeTunnel:
    """The node's tunnel end, with what points through it."""

    mac: str
    mtu: int
    vni: int
    port: int
    local: IPAddress
    addresses: set[IPInterface] = field(default_factory=set)
    neighbours: dict[IPAddress, str] = field(default_factory=dict)
    entries: dict[str, IPAddress] = field(default_factory=dict)
    routes: set[IPNetwork] = field(default_factory=set)  # each via the tunnel address of its own CIDR


@dataclass(slots=True)
class FakePort:
    """A host end; its pod end is `slot`'s eth0."""

    link: PodLink
    index: int
    slot: str  # where eth0 is, whatever the alias says
    up: bool = True
    on_bridge: bool = True
    static: bool = False
    guarded: set[IPAddress] = field(default_factory=set)


@dataclass(slots=True)
class FakeEnd:
    """The inside of a namespace."""

    inode: int
    held_by: set[str]  # "pause", "pin", and what tests add
    lo_up: bool = False
    mac: str | None = None
    up: bool = False
    mtu: int = 0
    addresses: set[IPInterface] = field(default_factory=set)
    gateways: set[IPAddress] = field(default_factory=set)
    neighbours: dict[IPAddress, str] = field(default_factory=dict)


class FakeFabric:
    """The underlay: knows which node is at which address, and which of them cannot reach each other."""

    def __init__(self) -> None:
        self.nodes: dict[IPAddress, FakeNode] = {}
        self._cut: set[frozenset[IPAddress]] = set()

    def cut(self, one: IPAddress, other: IPAddress) -> None:
        """No packet passes between the two until `heal`."""
        self._cut.add(frozenset((one, other)))

    def heal(self) -> None:
        """Everyone reaches everyone again."""
        self._cut.clear()

    def reaches(self, one: IPAddress, other: IPAddress) -> bool:
        """Whether a packet on the underlay gets there."""
        return other in self.nodes and frozenset((one, other)) not in self._cut


class FakeNode:
    """The state of one node's kernel, at one address of the underlay."""

    def __init__(self, fabric: FakeFabric, underlay: IPAddress, *, link: str = "eth0", mtu: int = 1500) -> None:
        self.fabric = fabric
        self.refuse: Callable[[str, str], KernelError | None] | None = None  # (verb, object) → why not
        self.writes = 0
        self.underlay_link = link
        self.underlay_address = underlay
        self.underlay_mtu = mtu
        self._numbers = itertools.count(1)
        self.reboot()
        fabric.nodes[underlay] = self

    def reboot(self) -> None:
        """The node's container ends and starts again: nothing is left."""
        self.bridge: FakeBridge | None = None
        self.tunnel: FakeTunnel | None = None
        self.tables: dict[str, str] = {}  # family → digest of its text
        self.sets: dict[str, set[bytes]] = {}  # "ip peers" → packed addresses
        self.sysctls: dict[str, str] = {}
        self.ports: dict[str, FakePort] = {}
        self.stray: dict[str, set[IPAddress]] = {}  # guard elements whose link is gone
        self.ends: dict[str, FakeEnd] = {}

    def next_number(self) -> int:
        """For inodes, indices and PIDs: never the same twice."""
        return next(self._numbers)

    def drop_port(self, name: str) -> None:
        """The veth goes, both ends of it; the guard's elements stay, as no one told nftables."""
        port = self.ports.pop(name)
        if port.guarded:
            self.stray[name] = port.guarded
        if port.slot in self.ends:
            empty(self.ends[port.slot])

    def lose(self, what: str, name: str = "") -> None:
        """Another program removes an object of ours: the bridge, an address, an entry. The kinds are those of the contract tests."""
        bridge, tunnel = self.bridge, self.tunnel
        port = self.ports.get(name)
        end = self.ends.get(port.slot) if port else None
        if what.startswith("nft table "):
            self.tables.pop(what.removeprefix("nft table "), None)
            for other in self.ports.values() if what.endswith("bridge") else ():
                other.guarded = set()
        elif what == "bridge":
            self.bridge = None
            for other in self.ports.values():
                other.on_bridge = other.static = False
        elif what == "vxlan":
            self.tunnel = None
        elif what == "bridge address" and bridge:
            bridge.addresses.clear()
        elif what == "sysctl":
            self.sysctls[name] = "not as asked"
        elif what == "peer route" and tunnel:
            tunnel.routes.clear()
        elif what == "peer entry" and tunnel:
            tunnel.entries.clear()
        elif what == "peer neighbour" and tunnel:
            tunnel.neighbours.clear()
        elif what == "pod neighbour" and bridge and port:
            for interface in port.link.addresses:
                bridge.neighbours.pop(interface.ip, None)
        elif what == "guard element" and port:
            port.guarded = set()
        elif what == "port entry" and port:
            port.static = False
        elif what == "port up" and port:
            port.up = False
        elif what == "port on bridge" and port:
            port.on_bridge = port.static = False
        elif what == "host end" and port:
            self.drop_port(name)
        elif what == "eth0 address" and end:
            end.addresses.clear()
            end.gateways.clear()
        elif what == "eth0 up" and end:
            end.up = False
            end.gateways.clear()
        elif what == "default route" and end:
            end.gateways.clear()
        elif what == "gateway neighbour" and end:
            end.neighbours.clear()
        else:
            raise KernelError(errno.ENOENT, "lose", f"{what} {name}".strip())


def empty(end: FakeEnd) -> None:
    """What a namespace without eth0 looks like."""
    end.mac, end.up, end.mtu = None, False, 0
    end.addresses, end.gateways, end.neighbours = set(), set(), {}
