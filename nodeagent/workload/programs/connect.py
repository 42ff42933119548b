"""`connect`: one connection attempt whose failure is named so that a test can look for it.

In: host:port. Out: exit code 0 and silence, or 1 and a line on standard error that starts with UNKNOWN, TIMEOUT, DNS, REFUSED or OTHER.
"""

from __future__ import annotations

import asyncio
import socket

from nodeagent.workload.flags import Duration, Kind, parse
from nodeagent.workload.life import Life, peer_text
from nodeagent.workload.sockets import NetError, go_reason

FLAGS: dict[str, Kind] = {"timeout": Duration(), "protocol": "tcp", "udp-data": "hostname", "sctp-data": "hostname"}


async def main(life: Life, args: tuple[str, ...]) -> int:
    """Tries once."""
    flags = parse(args, FLAGS, words=1)
    protocol = flags.text("protocol")
    if protocol not in ("", "tcp", "udp", "sctp"):
        life.log(f"Unsupported protocol\n{protocol}")
        return 1
    try:
        host, port = split(flags.words[0], "UNKNOWN" if protocol in ("", "tcp") else "DNS")
        try:
            address = (await life.around.names.resolve(host))[0]
        except NetError as error:
            raise Failure("DNS", str(error)) from error
        timeout_s = flags.seconds("timeout")
        if protocol in ("", "tcp"):
            await _tcp(life, address, port, timeout_s)
        else:
            await _datagram(life, address, port, timeout_s, flags.text(f"{protocol}-data"), sctp=protocol == "sctp")
    except Failure as failure:
        life.log(str(failure))
        return 1
    return 0


class Failure(Exception):
    """The attempt failed; `str()` is the line to print."""

    def __init__(self, prefix: str, text: str = "") -> None:
        super().__init__(f"{prefix}: {text}" if text else prefix)


def split(destination: str, prefix: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`; raises Failure."""
    host, colon, word = destination.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise Failure(prefix, f"address {destination}: too many colons in address")
    if not colon:
        raise Failure(prefix, f"address {destination}: missing port in address")
    if not word.isdecimal():
        raise Failure("DNS", f"lookup tcp/{word}: unknown port" if word else f"address {destination}: missing port")
    if int(word) > 65535:
        raise Failure("DNS", f"address {word}: invalid port")
    return host, int(word)


async def _tcp(life: Life, address: str, port: int, timeout_s: float) -> None:
    try:
        (await life.dial(address, port, kind=socket.SOCK_STREAM, timeout_s=timeout_s)).close()
    except NetError as error:
        prefix = {"timeout": "TIMEOUT", "refused": "REFUSED"}.get(error.kind)
        raise (Failure(prefix) if prefix else Failure("OTHER", str(error))) from error


async def _datagram(life: Life, address: str, port: int, timeout_s: float, data: str, *, sctp: bool) -> None:
    kind = socket.SOCK_STREAM if sctp else socket.SOCK_DGRAM
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s or None):
            with await life.dial(address, port, kind=kind, timeout_s=None, sctp=sctp) as sock:
                name = "sctp" if sctp else "udp"
                path = f"read {name} {peer_text(sock.getsockname())}->{peer_text(sock.getpeername())}"
                await loop.sock_sendall(sock, f"{data}\n".encode())
                if not await loop.sock_recv(sock, 1024):
                    raise Failure(
                        "OTHER",
                        "No data received from the server. Cannot guarantee the server received the request.",
                    )
    except NetError as error:
        raise Failure("OTHER", str(error)) from error
    except TimeoutError as error:
        raise Failure("TIMEOUT", "" if sctp else f"{path}: i/o timeout") from error
    except ConnectionRefusedError as error:
        raise Failure("REFUSED", f"{path}: read: {go_reason(error)}") from error
    except OSError as error:
        raise Failure("OTHER" if sctp else "UNKNOWN", f"{path}: read: {go_reason(error)}") from error
