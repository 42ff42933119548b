"""Names in a pod: its own /etc/hosts, then its own resolv.conf through sockets in the pod; never the node's resolver.

In: a name. Out: addresses, IPv4 first. The rules are the resolver's of every libc: the search list with `ndots`, `timeout` and
`attempts`, servers in order, and TCP when an answer does not fit a datagram. The files are read at each question, as a program that
reads /etc/resolv.conf would see it change.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path

from nodeagent.workload.sockets import NetError, Sockets, connected, host_port

A, AAAA = 1, 28
_HEADER = struct.Struct(">6H")
_RECORD = struct.Struct(">HHIH")
NXDOMAIN = 3


@dataclass(frozen=True, slots=True)
class ResolverConfig:
    """What a resolv.conf says."""

    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    ndots: int = 1
    timeout_s: float = 5
    attempts: int = 2
    tcp: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """One server's answer to one question."""

    code: int
    truncated: bool
    addresses: tuple[str, ...] = field(default=())


def parse_resolv_conf(text: str) -> ResolverConfig:
    """A resolv.conf; lines and options that we do not know are passed over, as resolvers do."""
    servers: list[str] = []
    searches: tuple[str, ...] = ()
    options: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        match words:
            case ["nameserver", server, *_]:
                servers.append(server)
            case ["search", *names]:
                searches = tuple(name.rstrip(".") for name in names)
            case ["domain", name, *_]:
                searches = (name.rstrip("."),)
            case ["options", *words]:
                options.update((name, value) for name, _, value in (word.partition(":") for word in words))
    return ResolverConfig(
        tuple(servers[:3]),
        searches,
        ndots=min(_number(options.get("ndots"), 1), 15),
        timeout_s=max(_number(options.get("timeout"), 5), 1),
        attempts=max(_number(options.get("attempts"), 2), 1),
        tcp="use-vc" in options,
    )


def _number(text: str | None, default: int) -> int:
    return int(text) if text and text.isdecimal() else default


def parse_hosts(text: str) -> dict[str, list[str]]:
    """Lower-case name → addresses."""
    hosts: dict[str, list[str]] = {}
    for line in text.splitlines():
        words = line.split("#")[0].split()
        for name in words[1:]:
            hosts.setdefault(name.lower(), []).append(words[0])
    return hosts


def candidates(name: str, config: ResolverConfig) -> list[str]:
    """The names to ask for, in order: a trailing dot means "as it is"; fewer dots than `ndots` means the search list first."""
    if name.endswith("."):
        return [name.rstrip(".")]
    searched = [f"{name}.{suffix}" for suffix in config.searches if suffix]
    return [name, *searched] if name.count(".") >= config.ndots else [*searched, name]


def encode_question(number: int, name: str, kind: int) -> bytes:
    """A recursive query; raises NetError for a name that cannot be one."""
    labels = name.encode("idna" if not name.isascii() else "ascii").split(b".")
    if not all(0 < len(label) <= 63 for label in labels) or sum(len(label) + 1 for label in labels) > 254:
        raise NetError("dns", f"lookup {name}: no such host")
    question = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return _HEADER.pack(number, 0x0100, 1, 0, 0, 0) + question + struct.pack(">HH", kind, 1)


def decode_answer(number: int, message: bytes, kind: int) -> Answer | None:
    """The addresses in a response to question `number`; None for anything else (a stray or broken datagram)."""
    try:
        got, flags, questions, answers, _, _ = _HEADER.unpack_from(message)
        if got != number or not flags & 0x8000:
            return None
        offset = _HEADER.size
        for _ in range(questions):
            offset = _skip_name(message, offset) + 4
        addresses: list[str] = []
        for _ in range(answers):
            offset = _skip_name(message, offset)
            record, _, _, size = _RECORD.unpack_from(message, offset)
            offset += _RECORD.size
            if record == kind and size in (4, 16):
                addresses.append(str(ipaddress.ip_address(message[offset : offset + size])))
            offset += size
        return Answer(flags & 0xF, bool(flags & 0x0200), tuple(addresses))
    except (struct.error, IndexError, ValueError):
        return None


def _skip_name(message: bytes, offset: int) -> int:
    while (size := message[offset]) != 0:
        if size >= 0xC0:  # a pointer ends a name
            return offset + 2
        offset += size + 1
    return offset + 1


class Names:
    """The resolver of one pod."""

    def __init__(self, sockets: Sockets, files: Path) -> None:
        self._sockets = sockets
        self._files = files  # a directory with `hosts` and `resolv.conf`
        self._numbers = itertools.count(1)

    async def resolve(self, name: str) -> list[str]:
        """Addresses of a name or of an address literal, IPv4 first.

        Raises:
            NetError: kind "dns", with Go's text.
        """
        try:
            return [str(ipaddress.ip_address(name.partition("%")[0]))]
        except ValueError:
            pass
        if not name:
            return ["127.0.0.1"]
        known = parse_hosts(self.read("hosts")).get(name.rstrip(".").lower())
        if known:
            return sorted(known, key=lambda address: ":" in address)
        config = parse_resolv_conf(self.read("resolv.conf"))
        server = host_port(config.nameservers[0], 53) if config.nameservers else "[::1]:53"
        failure: NetError | None = None
        for candidate in candidates(name, config):
            try:
                found = await asyncio.gather(*(self._ask(candidate, kind, config) for kind in (A, AAAA)))
            except NetError as error:  # the next suffix may still be known
                failure = failure or NetError("dns", f"lookup {name} on {server}: {error}")
                continue
            if addresses := [address for answer in found for address in answer.addresses]:
                return addresses
        raise failure or NetError("dns", f"lookup {name} on {server}: no such host")

    def read(self, name: str) -> str:
        """The text of the pod's `hosts` or `resolv.conf`; empty where there is none."""
        try:
            return (self._files / name).read_text(errors="replace")
        except OSError:
            return ""

    async def _ask(self, name: str, kind: int, config: ResolverConfig) -> Answer:
        number = next(self._numbers) & 0xFFFF
        question = encode_question(number, name, kind)
        error = NetError("dns", "no nameservers in resolv.conf")
        for server in config.nameservers * config.attempts:
            try:
                async with asyncio.timeout(config.timeout_s):
                    answer = await self._exchange(server, number, question, kind, tcp=config.tcp)
                    if answer.truncated:
                        answer = await self._exchange(server, number, question, kind, tcp=True)
            except (TimeoutError, NetError, OSError, EOFError) as problem:
                text = "i/o timeout" if isinstance(problem, TimeoutError) else str(problem)
                error = NetError("dns", text)
                continue
            if answer.code in (0, NXDOMAIN):
                return answer
            error = NetError("dns", "server misbehaving")
        raise error

    async def _exchange(self, server: str, number: int, question: bytes, kind: int, *, tcp: bool) -> Answer:
        loop = asyncio.get_running_loop()
        sock_kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
        sock = await connected(self._sockets, sock_kind, server, 53, timeout_s=None)
        with sock:
            if not tcp:
                await loop.sock_sendall(sock, question)
                while True:
                    answer = decode_answer(number, await loop.sock_recv(sock, 4096), kind)
                    if answer is not None:
                        return answer
            await loop.sock_sendall(sock, struct.pack(">H", len(question)) + question)
            size = int.from_bytes(await _receive_exactly(sock, 2), "big")
            answer = decode_answer(number, await _receive_exactly(sock, size), kind)
            if answer is None:
                raise NetError("dns", "cannot unmarshal DNS message")
            return answer


async def _receive_exactly(sock: socket.socket, size: int) -> bytes:
    parts: list[bytes] = []
    while size > 0:
        part = await asyncio.get_running_loop().sock_recv(sock, size)
        if not part:
            raise EOFError("EOF")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
