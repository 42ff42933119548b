"""Probes: does a packet from here get an answer from there?

In: targets, each with its source (a pod's namespace, or the node itself from its gateway address). Out: one result per target, in
order. All targets run at the same time, each with its own deadline. Sockets are opened inside the source's namespace by
`open_socket` and stay bound to it. ICMP packets are built here (RFC 792, RFC 4443); with a `size` they carry the don't-fragment bit,
so that an answer proves the path's MTU.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from podwire.api.v1 import node_agent_pb2 as agent
from podwire.errors import KernelError
from podwire.model.addresses import IPAddress
from podwire.seams import Clock

OpenSocket = Callable[[str, int, int, int], socket.socket]
"""(pin of a namespace or "" for the node's own, family, type, protocol) → a socket bound to that namespace."""

DEFAULT_TIMEOUT_MS = 2000
ANSWER_BYTES = 512
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2  # linux/in.h
IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO = 23, 2  # linux/in6.h
ECHO_REQUEST = {4: 8, 6: 128}
ECHO_REPLY = {4: 0, 6: 129}

_REASONS = {
    errno.ECONNREFUSED: "refused",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.EMSGSIZE: "too big for the path",
    errno.ECONNRESET: "reset",
    errno.EACCES: "forbidden",
    errno.EPERM: "forbidden",
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a probe starts: `pin` "" is the node; `address` is bound before sending when given, per IP version."""

    pin: str
    addresses: tuple[IPAddress, ...] = ()

    def address_for(self, version: int) -> str:
        """The source address of a family, or "" to let the kernel choose."""
        return next((str(address) for address in self.addresses if address.version == version), "")


class Prober:
    """Sends probes from one node."""

    def __init__(self, open_socket: OpenSocket, clock: Clock) -> None:
        self._open_socket = open_socket
        self._clock = clock
        self._ident = 0

    async def probe(self, targets: Sequence[tuple[Source | None, agent.ProbeTarget]]) -> list[agent.ProbeResult]:
        """One result per target; a source of None means that the pod is not here."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._one(source, target)) for source, target in targets]
        return [task.result() for task in tasks]

    async def _one(self, source: Source | None, target: agent.ProbeTarget) -> agent.ProbeResult:
        if source is None:
            return agent.ProbeResult(id=target.id, error="the source pod has no network on this node")
        started = self._clock.monotonic()
        try:
            version = ipaddress.ip_address(target.address).version
            async with asyncio.timeout((target.timeout_ms or DEFAULT_TIMEOUT_MS) / 1000):
                match target.kind:
                    case agent.PROBE_KIND_TCP:
                        answer = await self._tcp(source, target, version)
                    case agent.PROBE_KIND_UDP:
                        answer = await self._udp(source, target, version)
                    case _:
                        answer = await self._icmp(source, target, version)
        except TimeoutError:
            return agent.ProbeResult(id=target.id, error="timeout")
        except (OSError, ValueError, KernelError) as error:
            number = getattr(error, "errno", None)
            return agent.ProbeResult(id=target.id, error=_REASONS.get(number or 0, str(error)))
        rtt_ms = (self._clock.monotonic() - started) * 1000
        return agent.ProbeResult(id=target.id, ok=True, rtt_ms=rtt_ms, answer=answer[:ANSWER_BYTES])

    def _socket(self, source: Source, version: int, kind: int, protocol: int = 0) -> socket.socket:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        opened = self._open_socket(source.pin, family, kind, protocol)
        opened.setblocking(False)
        address = source.address_for(version)
        if address:
            opened.bind((address, 0))
        return opened

    async def _tcp(self, source: Source, target: agent.ProbeTarget, version: int) -> bytes:
        loop = asyncio.get_running_loop()
        with self._socket(source, version, socket.SOCK_STREAM) as connection:
            await loop.sock_connect(connection, (target.address, target.port))
            if not target.payload:
                return b""
            await loop.sock_sendall(connection, target.payload)
            answer = b""
            while len(answer) < ANSWER_BYTES:
                more = await loop.sock_recv(connection, ANSWER_BYTES)
                if not more:
                    break
                answer += more
            return answer

    async def _udp(self, source: Source, target: agent.ProbeTarget, version: int) -> bytes:
        loop = asyncio.get_running_loop()
        with self._socket(source, version, socket.SOCK_DGRAM) as connection:
            connection.connect((target.address, target.port))  # of a datagram socket: names the peer, sends nothing
            await loop.sock_sendall(connection, target.payload or b"hostname")
            return await loop.sock_recv(connection, ANSWER_BYTES)

    async def _icmp(self, source: Source, target: agent.ProbeTarget, version: int) -> bytes:
        loop = asyncio.get_running_loop()
        self._ident = (self._ident + 1) & 0xFFFF
        protocol = socket.IPPROTO_ICMP if version == 4 else socket.IPPROTO_ICMPV6
        with self._socket(source, version, socket.SOCK_RAW, protocol) as raw:
            if target.size and version == 4:
                raw.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
            elif target.size:
                raw.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO)
            raw.connect((target.address, 0))
            await loop.sock_sendall(raw, echo_request(version, self._ident, b"\x00" * target.size or b"podwire"))
            while True:
                if is_reply(version, self._ident, await loop.sock_recv(raw, 65535)):
                    return b""


def echo_request(version: int, ident: int, payload: bytes) -> bytes:
    """An echo request with sequence 1. The kernel fills in ICMPv6's checksum, which covers a pseudo-header (RFC 3542 §3.1)."""
    head = struct.pack(">BBHHH", ECHO_REQUEST[version], 0, 0, ident, 1)
    if version == 6:
        return head + payload
    return struct.pack(">BBHHH", ECHO_REQUEST[4], 0, checksum(head + payload), ident, 1) + payload


def is_reply(version: int, ident: int, packet: bytes) -> bool:
    """Whether a received packet is the reply to that request; raw IPv4 sockets deliver the IP header too, IPv6 ones do not."""
    body = packet[(packet[0] & 15) * 4 :] if version == 4 else packet
    return len(body) >= 8 and body[0] == ECHO_REPLY[version] and struct.unpack_from(">H", body, 4)[0] == ident


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + b"\x00" * (len(data) % 2)
    total: int = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
