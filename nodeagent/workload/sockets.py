"""Sockets inside a pod: made in its network namespace by a short visit there.

In: a pinned namespace path. Out: sockets that belong to that namespace for good, whoever uses them, so that one process serves
hundreds of pods from one event loop. `PodSockets` is the hosted way; `LocalSockets` makes them where the process already is (the
`/agnhost` command). Listening, connecting and their errors are the same for both, worded as Go's `net` package words them, because
upstream's tests look for those words.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from typing import Protocol

from nodeagent.kernel import netns
from nodeagent.kernel.base import Sandbox
from podwire.errors import KernelError

NET_NAMES: dict[int, str] = {socket.SOCK_STREAM: "tcp", socket.SOCK_DGRAM: "udp"}
_GO_REASONS = {  # where Go's text is not strerror's in lower case
    errno.ENETUNREACH: "network is unreachable",
    errno.EHOSTUNREACH: "no route to host",
}


class NetError(Exception):
    """A network operation failed. `kind` is one of timeout, refused, dns, other; `str()` is Go's text."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def go_reason(error: OSError) -> str:
    """An errno as Go prints it."""
    number = error.errno or 0
    return _GO_REASONS.get(number) or os.strerror(number).lower()


def host_port(host: str, port: int) -> str:
    """`host:port`, with brackets round an IPv6 address; an IPv4-mapped one is shown as IPv4."""
    host = host.removeprefix("::ffff:") if "." in host else host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Sockets(Protocol):
    """Where sockets are made."""

    async def open(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A new non-blocking socket; raises OSError."""


class LocalSockets:
    """Sockets in the namespace of this process."""

    async def open(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        return _make(family, kind, protocol)


class PodSockets:
    """Sockets in a pod's namespace, known by its pin and inode: a pin that was made anew is another pod's.

    The calling thread goes there and comes back between two turns of its event loop, in 20 µs; a thread of its own would cost 1 ms per
    socket. A thread that cannot come back must not live on: what it made next would be in the wrong pod.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def open(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        try:
            there = netns.open_pin(self._sandbox.pin, self._sandbox.netns_inode)
        except KernelError as error:
            raise OSError(error.errno, str(error)) from error
        home = netns.open_current()
        try:
            netns.setns(there)
            try:
                return _make(family, kind, protocol)
            finally:
                _come_home(home)
        finally:
            os.close(there)
            os.close(home)


def _come_home(home: int) -> None:
    try:
        netns.setns(home)
    except OSError as error:
        sys.stderr.write(f"cannot return to the node's network namespace: {error}\n")
        os._exit(1)  # the supervisor starts another host; its containers count as killed


def _make(family: int, kind: int, protocol: int) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    return made


async def bound(sockets: Sockets, kind: int, port: int, host: str = "", protocol: int = 0) -> socket.socket:
    """A socket bound to `port`, on every address of both families unless `host` is one address.

    Raises:
        NetError: with the text of Go's net.Listen.
    """
    families = [socket.AF_INET6, socket.AF_INET] if not host else [_family(host)]
    made: socket.socket | None = None
    for family in families:
        try:
            made = await sockets.open(family, kind, protocol)
            break
        except OSError as error:
            if family is families[-1] or error.errno != errno.EAFNOSUPPORT:
                raise NetError(
                    "other", f"listen {NET_NAMES[kind]} {host}:{port}: socket: {go_reason(error)}"
                ) from error
    if made is None:
        raise AssertionError
    try:
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1 if host else 0)
        if kind == socket.SOCK_STREAM:  # a restarted server must not wait for its predecessor's TIME_WAIT
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise NetError("other", f"listen {NET_NAMES[kind]} {host}:{port}: bind: {go_reason(error)}") from error
    return made


async def connected(
    sockets: Sockets, kind: int, address: str, port: int, *, timeout_s: float | None, protocol: int = 0
) -> socket.socket:
    """A socket connected to an address (never a name).

    Raises:
        NetError: with the text of Go's net.Dial.
    """
    prefix = f"dial {NET_NAMES[kind]} {host_port(address, port)}"
    try:
        made = await sockets.open(_family(address), kind, protocol)
    except OSError as error:
        raise NetError("other", f"{prefix}: socket: {go_reason(error)}") from error
    try:
        async with asyncio.timeout(timeout_s or None):
            await asyncio.get_running_loop().sock_connect(made, (address, port))
        return made
    except TimeoutError as error:
        made.close()
        raise NetError("timeout", f"{prefix}: i/o timeout") from error
    except OSError as error:
        made.close()
        kind_of_error = {errno.ECONNREFUSED: "refused", errno.ETIMEDOUT: "timeout"}.get(error.errno or 0, "other")
        raise NetError(kind_of_error, f"{prefix}: connect: {go_reason(error)}") from error
    except BaseException:
        made.close()
        raise


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
