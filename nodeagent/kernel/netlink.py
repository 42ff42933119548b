"""Netlink's envelope: messages and attributes as bytes, and a socket that sends many at once.

In: bodies packed by `rtnl.py` (links, addresses, routes) and `nft.py` (set elements). Out: the kernel's answers: one `Refusal` or None
per message of a batch, or the messages of a dump. What a body means is decided there; only framing, acknowledgement, extended error
text and interrupted dumps are known here. A socket belongs to the network namespace it was opened in, whatever its user does later.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from podwire.errors import KernelError

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

REQUEST, MULTI, ACK, DUMP_INTERRUPTED = 0x1, 0x2, 0x4, 0x10
REPLACE, EXCL, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800
DUMP = 0x300
NESTED = 0x8000

_NOOP, _ERROR, _DONE = 1, 2, 3
_SOL_NETLINK, _EXT_ACK, _CAP_ACK, _STRICT_CHECK, _ADD_MEMBERSHIP = 270, 11, 10, 12, 1
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_ACK_HAS_TLVS, _ERROR_TEXT = 0x200, 1
_TIMEOUT = struct.pack(
    "ll", 20, 0
)  # a kernel that answers nothing for 20 s will not; better an error than a stuck thread
_BUFFER_BYTES = 8 << 20

HEADER = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")
_ERRNO = struct.Struct("=i")
_SEQUENCE = struct.Struct("=I")
_FLAGS = struct.Struct("=H")

_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


def attr(kind: int, data: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    length = len(data)
    return ATTRIBUTE.pack(4 + length, kind) + data + _PADDING[length & 3]


def attr_u32(kind: int, value: int) -> bytes:
    """An attribute of four bytes in the machine's order."""
    return struct.pack("=HHI", 8, kind, value)


def attr_u8(kind: int, value: int) -> bytes:
    """An attribute of one byte."""
    return attr(kind, bytes((value,)))


def attr_string(kind: int, value: str) -> bytes:
    """A zero-terminated string."""
    return attr(kind, value.encode() + b"\0")


def nested(kind: int, *parts: bytes) -> bytes:
    """Attributes inside one."""
    return attr(kind | NESTED, b"".join(parts))


def message(kind: int, flags: int, *body: bytes) -> bytes:
    """A request; the socket gives it its sequence number."""
    data = b"".join(body)
    return HEADER.pack(16 + len(data), kind, REQUEST | flags, 0, 0) + data + _PADDING[len(data) & 3]


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes by kind, flag bits removed; of a repeated kind the last one."""
    found: dict[int, bytes] = {}
    end = len(data)
    unpack = ATTRIBUTE.unpack_from
    while offset + 4 <= end:
        length, kind = unpack(data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def elements(data: bytes) -> Iterator[bytes]:
    """The payloads of a list attribute, in order, whatever their kind."""
    offset = 0
    while offset + 4 <= len(data):
        length, _ = ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            return
        yield data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the kernel refused one message of a batch."""

    errno: int
    text: str  # the kernel's own words, or empty

    def error(self, operation: str, obj: str) -> KernelError:
        """The refusal as an error that names the object."""
        reason = os.strerror(self.errno)
        return KernelError(self.errno, operation, obj, f"{reason} ({self.text})" if self.text else reason)


class NetlinkSocket:
    """A socket kept open for as long as its owner lives: closing an nfnetlink socket after a delete waits 16 ms."""

    def __init__(self, protocol: int = NETLINK_ROUTE, *, groups: Sequence[int] = (), light: bool = False) -> None:
        """Opens it in the calling thread's network namespace; a `light` one leaves the buffers at their default sizes."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        option = self._socket.setsockopt
        option(_SOL_NETLINK, _CAP_ACK, 1)
        option(_SOL_NETLINK, _EXT_ACK, 1)
        option(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEOUT)
        if protocol == NETLINK_ROUTE:
            option(_SOL_NETLINK, _STRICT_CHECK, 1)
        if not light:
            self._enlarge(_SO_SNDBUFFORCE, socket.SO_SNDBUF)
            self._enlarge(_SO_RCVBUFFORCE, socket.SO_RCVBUF)
        if groups:
            self._socket.bind((0, 0))
        for group in groups:
            option(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        self._sequence = itertools.count(1)

    def _enlarge(self, forced: int, plain: int) -> None:
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, forced, _BUFFER_BYTES)
        except PermissionError:  # inside a user namespace the system's maximum holds
            self._socket.setsockopt(socket.SOL_SOCKET, plain, _BUFFER_BYTES)

    def fileno(self) -> int:
        """The descriptor, for polling and for interface ioctls."""
        return self._socket.fileno()

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    @property
    def port(self) -> int:
        """The port ID that notifications of this socket's own changes carry."""
        name = self._socket.getsockname()
        return int(name[0])

    def request(self, messages: Sequence[bytes]) -> list[Refusal | None]:
        """Sends all in one datagram; each is carried out whatever happens to the others. One result per message, in order."""
        if not messages:
            return []
        datagram = bytearray().join(messages)
        return self.request_datagram(datagram, offsets(datagram))

    def request_datagram(self, datagram: bytearray, starts: Sequence[int]) -> list[Refusal | None]:
        """The same for a datagram packed before (the hot path), given where its messages start. Only the last is acknowledged:
        refusals of the others arrive before that.
        """
        first = 0
        for start in starts:
            number = next(self._sequence) & 0xFFFFFFFF
            first = first or number
            _SEQUENCE.pack_into(datagram, start + 8, number)
        flags = starts[-1] + 6
        _FLAGS.pack_into(datagram, flags, _FLAGS.unpack_from(datagram, flags)[0] | ACK)
        self._socket.send(datagram)
        results: list[Refusal | None] = [None] * len(starts)
        last = len(starts) - 1
        while True:
            for kind, flags, number, payload in self._receive():
                place = number - first
                if kind != _ERROR or not 0 <= place <= last:
                    continue  # a leftover of an earlier request, or an unasked-for echo
                results[place] = refusal(flags, payload)
                if place == last:
                    return results

    def transact(self, begin: bytes, messages: Sequence[bytes], end: bytes) -> tuple[int, Refusal] | None:
        """nfnetlink's all-or-nothing batch: None, or the first refusal with the index of its message (-1: the batch itself)."""
        datagram = bytearray().join((begin, *messages, end))
        starts = offsets(datagram)
        first = next(self._sequence) & 0xFFFFFFFF
        for place, start in enumerate(starts):
            _SEQUENCE.pack_into(datagram, start + 8, first + place)
        for _ in messages:
            next(self._sequence)
        next(self._sequence)
        acknowledged = len(starts) - 2
        flags = starts[acknowledged] + 6
        _FLAGS.pack_into(datagram, flags, _FLAGS.unpack_from(datagram, flags)[0] | ACK)
        self._socket.send(datagram)
        refused: tuple[int, Refusal] | None = None
        while True:
            for kind, flags, number, payload in self._receive():
                place = number - first
                if kind != _ERROR or not 0 <= place < len(starts):
                    continue
                result = refusal(flags, payload)
                if result is not None and refused is None:
                    refused = place - 1, result
                if place in {0, acknowledged}:  # a refused batch header is the only answer there will be
                    return refused

    def ask(self, request: bytes) -> tuple[int, bytes] | Refusal:
        """One question with one answer: (kind, payload) or why not."""
        number = self._send_one(request, 0)
        while True:
            for kind, flags, sequence, payload in self._receive():
                if sequence != number:
                    continue
                if kind == _ERROR:
                    return refusal(flags, payload) or Refusal(errno.ENODATA, "")
                return kind, payload

    def dump(self, request: bytes, what: str) -> list[tuple[int, bytes]]:
        """All of a kind, as (message kind, payload). A dump that a concurrent change interrupted is taken again.

        Raises:
            KernelError: the kernel refused, or the objects would not hold still.
        """
        for _ in range(20):
            found = self._dump_once(request, what)
            if found is not None:
                return found
        raise KernelError(errno.EAGAIN, "list", what, "it changed during each of 20 attempts")

    def _dump_once(self, request: bytes, what: str) -> list[tuple[int, bytes]] | None:
        number = self._send_one(request, DUMP)
        found: list[tuple[int, bytes]] = []
        whole = True
        while True:
            for kind, flags, sequence, payload in self._receive():
                if sequence != number:
                    continue
                if flags & DUMP_INTERRUPTED:
                    whole = False
                if kind in {_DONE, _ERROR}:
                    code = _ERRNO.unpack_from(payload)[0] if len(payload) >= 4 else 0
                    if code in {-errno.EINTR, -errno.EAGAIN}:
                        return None
                    if code:
                        raise (refusal(flags, payload) or Refusal(-code, "")).error("list", what)
                    return found if whole else None
                found.append((kind, payload))

    def _send_one(self, request: bytes, flags: int) -> int:
        datagram = bytearray(request)
        number = next(self._sequence) & 0xFFFFFFFF
        _SEQUENCE.pack_into(datagram, 8, number)
        _FLAGS.pack_into(datagram, 6, _FLAGS.unpack_from(datagram, 6)[0] | flags)
        self._socket.send(datagram)
        return number

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        try:
            data = self._socket.recv(1 << 18)
        except BlockingIOError as error:
            raise KernelError(errno.ETIMEDOUT, "wait for", "a netlink answer") from error
        return parse(data)

    def receive_pending(self) -> list[tuple[int, int, bytes]] | None:
        """Notifications waiting now, as (kind, port of the changer, payload); None when some were lost."""
        found: list[tuple[int, int, bytes]] = []
        lost = False
        while True:
            try:
                data = self._socket.recv(1 << 18, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None if lost else found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            offset = 0
            while offset + 16 <= len(data):
                length, kind, _, _, port = HEADER.unpack_from(data, offset)
                found.append((kind, port, data[offset + 16 : offset + length]))
                offset += (length + 3) & ~3


def offsets(datagram: bytes | bytearray) -> list[int]:
    """Where the messages of a datagram start."""
    starts: list[int] = []
    offset = 0
    while offset < len(datagram):
        starts.append(offset)
        offset += (_SEQUENCE.unpack_from(datagram, offset)[0] + 3) & ~3
    return starts


def parse(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The messages of a received datagram as (kind, flags, sequence number, payload)."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, number, _ = HEADER.unpack_from(data, offset)
        if length < 16:
            return
        if kind != _NOOP:
            yield kind, flags, number, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def refusal(flags: int, payload: bytes) -> Refusal | None:
    """What an NLMSG_ERROR says: None for success."""
    code = _ERRNO.unpack_from(payload)[0]
    if not code:
        return None
    text = b""
    if flags & _ACK_HAS_TLVS:
        text = attributes(payload, 4 + 16).get(_ERROR_TEXT, b"")
    return Refusal(-code, text.rstrip(b"\0").decode(errors="replace"))
