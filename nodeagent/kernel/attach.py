"""Wires pods in the real kernel: many at once, in an order that lets nothing pass before its guard stands.

In: pod links and their sandboxes. Out: one Failure or None each. For a batch: the pair of each pod from a socket inside it (one datagram
packed ahead; a thread runs ahead opening the next sockets), the guard's elements of all in one transaction, the node's side of all in
one datagram, and only then each pod's eth0 up with its route. A namespace that already holds something is read first and only mended.
What the messages are is decided in `wiring.py`.
"""

from __future__ import annotations

import errno
import fcntl
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nodeagent.kernel import guard, netns, rtnl, rtnl_read, wiring
from nodeagent.kernel.base import Failure, PodLink, Sandbox
from nodeagent.kernel.netlink import NetlinkSocket, Refusal
from nodeagent.kernel.nft import NftSocket, SetId
from podwire.errors import KernelError
from podwire.model.names import BRIDGE
from podwire.seams import failpoint

_SIOCGIFNAME, _SIOCGIFINDEX = 0x8910, 0x8933
_IFREQ = struct.Struct("16si20x")
_NODE_BATCH = 2000  # messages per datagram: their refusals must fit the receive buffer


@dataclass(slots=True)
class _Job:
    """One pod on its way."""

    link: PodLink
    sandbox: Sandbox
    socket: NetlinkSocket | None = None
    datagram: bytearray = field(default_factory=bytearray)  # the last step of a new pod, packed with the first
    starts: Sequence[int] = ()
    mended: wiring.PodSide | None = None  # of a pod that was there already
    error: KernelError | None = None


def index_of(socket: NetlinkSocket, name: str) -> int:
    """A link's index in the socket's namespace, 0 when there is none; by ioctl, because that costs no dump."""
    try:
        answer = fcntl.ioctl(socket.fileno(), _SIOCGIFINDEX, _IFREQ.pack(name.encode(), 0))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return 0
        raise KernelError(error.errno or errno.EIO, "look up link", name) from error
    return int(_IFREQ.unpack(answer)[1])


def index_taken(socket: NetlinkSocket, index: int) -> bool:
    """Whether a link has this index in the socket's namespace."""
    try:
        fcntl.ioctl(socket.fileno(), _SIOCGIFNAME, _IFREQ.pack(b"", index))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return False
        raise KernelError(error.errno or errno.EIO, "look up link", str(index)) from error
    return True


def read_inside(socket: NetlinkSocket) -> wiring.PodSide:
    """The inside of a sandbox."""
    links = rtnl_read.read_links(socket)
    eth0 = next((link for link in links if link.name == "eth0"), None)
    lo_up = any(link.index == 1 and link.up for link in links)
    if eth0 is None:
        return wiring.PodSide(None, lo_up, frozenset(), {}, frozenset())
    addresses = frozenset(
        address.interface
        for address in rtnl_read.read_addresses(socket)
        if address.index == eth0.index and address.global_scope
    )
    gateways = frozenset(
        route.gateway
        for family in sorted({rtnl.family(address.ip) for address in addresses})
        for route in rtnl_read.read_routes(socket, family, link=eth0.index)
        if route.network is None and route.gateway is not None
    )
    neighbours = {
        entry.address: entry.mac
        for entry in rtnl_read.read_neighbours(socket, link=eth0.index)
        if entry.address is not None and entry.state & rtnl.PERMANENT
    }
    return wiring.PodSide(eth0, lo_up, addresses, neighbours, gateways)


class Attacher:
    """Holds the node's sockets; one batch at a time."""

    def __init__(self, node: NetlinkSocket, nft: Callable[[], NftSocket], node_netns: int, *, ipv6: bool) -> None:
        self._node = node
        self._nft = nft
        self._node_netns = node_netns
        self._ipv6 = ipv6

    def wire(self, links: Sequence[PodLink], sandboxes: Sequence[Sandbox]) -> list[Failure | None]:
        """See `Kernel.wire`."""
        jobs = [_Job(link, sandbox) for link, sandbox in zip(links, sandboxes, strict=True)]
        bridge = index_of(self._node, BRIDGE)
        if not bridge:
            missing = KernelError(errno.ENODEV, "wire pods to", BRIDGE, "there is no bridge; ensure_node makes it")
            return [Failure(missing) for _ in jobs]
        place = wiring.Place(bridge, self._node_netns, self._ipv6)
        try:
            self._pairs(jobs, place)
            failpoint("wire.paired")
            known = self._known(jobs, bridge)
            self._guard(_alive(jobs))
            failpoint("wire.guarded")
            self._ports(_alive(jobs), place, known)
            failpoint("wire.ported")
            for job in _alive(jobs):
                _try(job, _rise)
        finally:
            for job in jobs:
                if job.socket is not None:
                    job.socket.close()
        return [Failure(job.error) if job.error else None for job in jobs]

    def _pairs(self, jobs: Sequence[_Job], place: wiring.Place) -> None:
        templates = wiring.Templates(place)
        pins = [(job.sandbox.pin, job.sandbox.netns_inode) for job in jobs]
        for job, opened in zip(jobs, netns.sockets(pins), strict=True):
            if isinstance(opened, KernelError):
                job.error = opened
                continue
            job.socket = opened
            _try(job, lambda job: self._pair(job, place, templates))

    def _pair(self, job: _Job, place: wiring.Place, templates: wiring.Templates) -> None:
        socket = _socket(job)
        if index_taken(socket, wiring.ETH0_INDEX):
            self._mend(job, place)
            return
        first, datagram, last, job.datagram = templates.fill(job.link)
        job.starts = last.starts
        results = socket.request_datagram(datagram, first.starts)
        refused = next((each for each in results if each is not None), None)
        if refused is not None and refused.errno in {errno.EEXIST, errno.ENODEV}:
            # A host end of that name is left from another sandbox, or an eth0 was here before and the new one has another index.
            self._mend(job, place)
            return
        _raise_first(results, "wire", f"pod link {job.link.name}")

    def _mend(self, job: _Job, place: wiring.Place) -> None:
        """The slow way, for a namespace or a name that is not new: reads first, keeps what is right."""
        link, socket = job.link, _socket(job)
        side = read_inside(socket)
        host = self._host_end(link.name)
        if not wiring.is_pair(side.eth0, host):
            what = f"pod link {link.name}"
            if side.eth0 is not None:
                _raise_first(socket.request([rtnl.delete_link(side.eth0.index)]), "delete eth0 of", what)
            stale = index_of(self._node, link.name)
            if stale:
                _raise_first(self._node.request([rtnl.delete_link(stale)]), "delete the stale host end of", what)
            _raise_first(socket.request(wiring.pair(link, place)[:1]), "create", what)
            index = index_of(socket, "eth0")
            _raise_first(socket.request(wiring.inside(link, place, index)), "configure", what)
        elif side.eth0 is not None:
            messages = wiring.mend_inside(link, side, side.eth0)
            if not messages:
                job.mended = side
                return
            _raise_first(socket.request(messages), "mend", f"pod link {link.name}", ignore=(errno.EEXIST,))
        job.mended = read_inside(socket)

    def _host_end(self, name: str) -> rtnl_read.Link | None:
        index = index_of(self._node, name)
        return rtnl_read.read_link(self._node, index) if index else None

    def _known(self, jobs: Sequence[_Job], bridge: int) -> dict[str, wiring.NodeSide]:
        """The node's side of the pods that were there already; nothing is read when all are new."""
        mended = [job for job in _alive(jobs) if job.mended is not None]
        if not mended:
            return {}
        static: dict[int, set[str]] = {}
        for entry in rtnl_read.read_bridge_entries(self._node, bridge):
            if entry.state & rtnl.NO_ARP:
                static.setdefault(entry.index, set()).add(entry.mac)
        neighbours = {
            entry.address: entry.mac
            for entry in rtnl_read.read_neighbours(self._node, link=bridge)
            if entry.address is not None and entry.state & rtnl.PERMANENT
        }
        found: dict[str, wiring.NodeSide] = {}
        for job in mended:
            host = self._host_end(job.link.name)
            if host is None:
                job.error = KernelError(errno.ENODEV, "wire", f"pod link {job.link.name}", "its host end vanished")
                continue
            found[job.link.name] = wiring.NodeSide(host, frozenset(static.get(host.index, ())), neighbours)
        return found

    def _guard(self, jobs: Sequence[_Job]) -> None:
        add: dict[SetId, set[bytes]] = {}
        for job in jobs:
            if job.link.guard:
                for target, keys in guard.pod_elements(job.link).items():
                    add.setdefault(target, set()).update(keys)
        delete: dict[SetId, set[bytes]] = {}
        old = {job.link.name for job in jobs if job.mended is not None}
        if old:  # only these may have elements: what is there is not written again, and what is not theirs goes
            for target in (guard.PODS4, guard.PODS6, guard.TARGETS6):
                there = self._nft().elements(target) or set()
                mine = {key for key in there if guard.element_name(key) in old}
                wanted = add.get(target, set())
                delete[target] = mine - wanted
                add[target] = wanted - there
        try:
            self._nft().change(add, delete)
        except KernelError as error:
            for job in jobs:
                job.error = error

    def _ports(self, jobs: Sequence[_Job], place: wiring.Place, known: dict[str, wiring.NodeSide]) -> None:
        messages: list[bytes] = []
        owners: list[_Job] = []
        for job in jobs:
            index = index_of(self._node, job.link.name)
            if not index:
                job.error = KernelError(errno.ENODEV, "wire", f"pod link {job.link.name}", "its host end vanished")
                continue
            packed = wiring.port(job.link, index, place, known.get(job.link.name))
            messages += packed
            owners += [job] * len(packed)
        for start in range(0, len(messages), _NODE_BATCH):
            results = self._node.request(messages[start : start + _NODE_BATCH])
            for job, refused in zip(owners[start : start + _NODE_BATCH], results, strict=True):
                if refused is not None and job.error is None:
                    job.error = refused.error("configure the node's side of", f"pod link {job.link.name}")


def _rise(job: _Job) -> None:
    socket, what = _socket(job), f"pod link {job.link.name}"
    if job.mended is None:
        _raise_first(socket.request_datagram(job.datagram, job.starts), "bring up", what)
    elif job.mended.eth0 is not None:
        messages = wiring.mend_rise(job.link, job.mended, job.mended.eth0)
        _raise_first(socket.request(messages), "bring up", what, ignore=(errno.EEXIST,))


def _socket(job: _Job) -> NetlinkSocket:
    if job.socket is None:
        raise KernelError(errno.EBADF, "wire", f"pod link {job.link.name}", "its sandbox is not open")
    return job.socket


def _try(job: _Job, step: Callable[[_Job], None]) -> None:
    try:
        step(job)
    except KernelError as error:
        job.error = error
    except OSError as error:
        job.error = KernelError(error.errno or errno.EIO, "wire", f"pod link {job.link.name}")


def _alive(jobs: Sequence[_Job]) -> list[_Job]:
    return [job for job in jobs if job.error is None]


def _raise_first(results: Sequence[Refusal | None], operation: str, obj: str, *, ignore: Sequence[int] = ()) -> None:
    for refused in results:
        if refused is not None and refused.errno not in ignore:
            raise refused.error(operation, obj)
