"""Numbered packets between pods, and what became of them. Runs in a pod's namespace as `python3 -c SOURCE PORT RATE PEER…`.

In: peers that run the same program. Out: JSON lines. Each sends every other datagrams that are numbered without a gap, and a TCP stream of
numbers. "ready" is printed once every peer listens; after the line `stop` on standard input it says what it sent (a second's worth at least), after `report` what
arrived of each peer: how many different datagrams, the longest pause between two, how far the stream came unbroken. Ends with its input.
Only the standard library: it also runs on a node's own Python.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any

NUMBER = struct.Struct(">Q")
CONNECT_WITHIN_S, END_WITHIN_S, QUIET_S = 10.0, 5.0, 0.1
RECEIVE_BUFFER = 16 << 20
SO_RCVBUFFORCE = 33
TOTAL_RETRANSMITS = 100  # offset in struct tcp_info (include/uapi/linux/tcp.h)
now = time.monotonic  # noqa: TID251 - a program of its own, in a pod


@dataclass
class Peer:
    """One other program."""

    address: str
    out: socket.socket
    sent: int = 0
    streamed: int = 0
    pending: bytes = b""
    stream: socket.socket | None = None  # from it to us
    unread: bytes = b""
    arrived: set[int] = field(default_factory=set)
    last: float = 0.0
    longest_gap: float = 0.0
    in_order: int = 0
    broken: str = ""
    ended: bool = False


class Prober:
    """See the module's docstring."""

    def __init__(self, port: int, rate: int, peers: list[str]) -> None:
        self.port, self.rate = port, rate
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        self.udp.bind(("", port))
        self.udp.setblocking(False)
        self.listener = socket.create_server(("", port))
        self.poll = select.poll()
        self.poll.register(self.udp, select.POLLIN)
        self.poll.register(self.listener, select.POLLIN)
        self.poll.register(sys.stdin, select.POLLIN)
        self.peers = {address: Peer(address, self.connected(address)) for address in peers}
        self.streams: dict[int, Peer] = {}
        self.sending = True
        self.stopping = False
        self.began = now()

    def connected(self, address: str) -> socket.socket:
        """A stream to a peer, which may not listen yet."""
        deadline = now() + CONNECT_WITHIN_S
        while True:
            try:
                out = socket.create_connection((address, self.port), timeout=1.0)
            except OSError:
                if now() > deadline:
                    raise
                select.select([], [], [], 0.02)
            else:
                out.setblocking(False)
                return out

    def run(self) -> None:
        """Until standard input ends."""
        ready = False
        while True:
            for fd, _ in self.poll.poll(1):
                if fd == self.udp.fileno():
                    self.take_datagrams()
                elif fd == self.listener.fileno():
                    self.accept()
                elif fd in self.streams:
                    self.take_stream(fd)
                elif fd == sys.stdin.fileno() and not self.command(sys.stdin.readline().strip()):
                    return
            if not ready and all(peer.stream for peer in self.peers.values()):
                ready = True
                say({"ready": True})
            if self.sending:
                self.send()
            if self.sending and self.stopping and all(peer.sent >= self.rate for peer in self.peers.values()):
                self.sending = False
                say(self.stopped())

    def command(self, line: str) -> bool:
        if line == "stop":
            self.stopping = True
        elif line == "report":
            self.drain()
            say(self.report())
        return bool(line)

    def send(self) -> None:
        due = int((now() - self.began) * self.rate)
        for peer in self.peers.values():
            while peer.sent < due:
                try:
                    self.udp.sendto(NUMBER.pack(peer.sent), (peer.address, self.port))
                except BlockingIOError:
                    break
                peer.sent += 1
                peer.pending += NUMBER.pack(peer.streamed)
                peer.streamed += 1
            self.push(peer)

    def push(self, peer: Peer) -> None:
        try:
            while peer.pending:
                peer.pending = peer.pending[peer.out.send(peer.pending) :]
        except BlockingIOError:
            return
        except OSError as error:
            peer.broken = peer.broken or f"sending: {error}"
            peer.pending = b""

    def take_datagrams(self) -> None:
        while True:
            try:
                data, (address, _) = self.udp.recvfrom(64)
            except BlockingIOError:
                return
            peer = self.peers.get(address)
            if peer is None:
                continue
            moment = now()
            if peer.last:
                peer.longest_gap = max(peer.longest_gap, moment - peer.last)
            peer.last = moment
            peer.arrived.add(NUMBER.unpack(data)[0])

    def accept(self) -> None:
        stream, (address, _) = self.listener.accept()
        peer = self.peers[address]
        stream.setblocking(False)
        peer.stream = stream
        self.streams[stream.fileno()] = peer
        self.poll.register(stream, select.POLLIN)

    def take_stream(self, fd: int) -> None:
        peer = self.streams[fd]
        assert peer.stream is not None
        try:
            data = peer.stream.recv(1 << 16)
        except OSError as error:
            peer.broken = peer.broken or f"receiving: {error}"
            data = b""
        if not data:
            peer.ended = True
            self.poll.unregister(fd)
            del self.streams[fd]
            return
        data = peer.unread + data
        whole = len(data) // NUMBER.size * NUMBER.size
        for (number,) in NUMBER.iter_unpack(data[:whole]):
            if number != peer.in_order:
                peer.broken = peer.broken or f"{number} came where {peer.in_order} was due"
            peer.in_order += 1
        peer.unread = data[whole:]

    def stopped(self) -> dict[str, Any]:
        result = {}
        for peer in self.peers.values():
            peer.out.setblocking(True)
            peer.out.settimeout(END_WITHIN_S)
            self.push(peer)
            info = peer.out.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 240)
            retransmits = struct.unpack_from("=I", info, TOTAL_RETRANSMITS)[0]
            if not peer.broken:
                peer.out.shutdown(socket.SHUT_WR)
            result[peer.address] = {"datagrams": peer.sent, "numbers": peer.streamed, "retransmits": retransmits}
        return result

    def drain(self) -> None:
        """Takes what is still on its way: until the streams have ended and the rest is silence."""
        deadline = now() + END_WITHIN_S
        while now() < deadline:
            events = self.poll.poll(int(QUIET_S * 1000))
            for fd, _ in events:
                if fd == self.udp.fileno():
                    self.take_datagrams()
                elif fd in self.streams:
                    self.take_stream(fd)
            if not events and all(peer.ended for peer in self.peers.values()):
                return

    def report(self) -> dict[str, Any]:
        return {
            peer.address: {
                "datagrams": len(peer.arrived),
                "numbers": peer.in_order,
                "longest_gap_ms": round(peer.longest_gap * 1000),
                "broken": peer.broken,
            }
            for peer in self.peers.values()
        }


def say(message: dict[str, Any]) -> None:
    """One line to whoever started this."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    Prober(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]).run()
