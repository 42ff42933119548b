"""A container's virtual life: what a hosted program has instead of a process.

In: an environment (hostname, argv, env, files) and a place to make sockets. Out: an ending (exit code, signal), before which everything
the program opened is closed, listeners first, as the kernel does for a process. The programs under `programs/` see a `Life` and
nothing else; `host.py` gives them one in a pod, `agnhost.py` one in the shell that started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from nodeagent.workload import web
from nodeagent.workload.names import Names
from nodeagent.workload.sockets import NetError, Sockets, bound, connected, host_port
from podwire.seams import Clock

IPPROTO_SCTP = 132
CLOSE_DEADLINE_S = 2.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a container sees of the world."""

    hostname: str
    env: Mapping[str, str]
    sockets: Sockets
    names: Names
    clock: Clock
    write: Callable[[str, str], None]  # (stream, text)
    directory: Path  # where files of this run may be left
    shell: Callable[[str], Awaitable[tuple[bytes, int]]]  # runs a command line in the container; (output, exit status)
    title: str = ""  # "pod default/web, container nginx, image nginx:1.27"
    ports: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """How a life ended."""

    code: int
    signal: int = 0
    message: str = ""


Program = Callable[["Life", tuple[str, ...]], Awaitable[int]]
Datagram = Callable[[bytes, tuple[str, int]], bytes | None]


@dataclass(eq=False)
class Life:
    """One run of one program. `terminated` is set when TERM arrives; a program that ignores it lives until `kill`."""

    around: Surroundings
    terminated: asyncio.Event = field(default_factory=asyncio.Event)
    serving: asyncio.Event = field(default_factory=asyncio.Event)
    _servers: list[asyncio.Server] = field(default_factory=list)
    _transports: set[asyncio.BaseTransport] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _ending: asyncio.Future[Ending] | None = None

    def out(self, text: str) -> None:
        """Writes to standard output."""
        self.around.write("stdout", text)

    def log(self, text: str) -> None:
        """Writes to standard error, where Go's log goes."""
        self.around.write("stderr", text)

    def exit(self, code: int) -> None:
        """Ends this life at once, whoever calls."""
        self._end(Ending(code))

    def kill(self) -> None:
        """KILL: nothing can ignore it."""
        self._end(Ending(128 + signal.SIGKILL, signal.SIGKILL))

    def _end(self, ending: Ending) -> None:
        if self._ending is not None and not self._ending.done():
            self._ending.set_result(ending)

    async def live(self, program: Program, args: tuple[str, ...]) -> Ending:
        """Runs a program to its end, by itself, by `exit` or by `kill`, and closes all it opened."""
        self._ending = asyncio.get_running_loop().create_future()
        main = asyncio.ensure_future(self._main(program, args))
        try:
            await asyncio.wait({main, self._ending}, return_when=asyncio.FIRST_COMPLETED)
            return self._ending.result() if self._ending.done() else main.result()
        finally:
            main.cancel()
            self.stop_listening()
            await self._close(main)

    async def _main(self, program: Program, args: tuple[str, ...]) -> Ending:
        try:
            return Ending(await program(self, args))
        except NetError as error:  # as Go's log.Fatal
            self.log(str(error))
            return Ending(1, message=str(error))
        except Exception as error:  # noqa: BLE001 - a fault in one program must not reach the other containers
            self.log(f"panic: {type(error).__name__}: {error}")
            return Ending(2, message=f"panic: {error}")

    def stop_listening(self) -> None:
        """Closes the listening sockets; connections go on."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def _close(self, main: asyncio.Task[Ending]) -> None:
        for transport in self._transports:
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()  # what is unsent is lost, as with a process that dies
            else:
                transport.close()
        doing = {main, *self._tasks}
        for task in doing:
            task.cancel()
        await asyncio.wait(doing, timeout=CLOSE_DEADLINE_S)
        await self.around.clock.sleep(0)  # an aborted transport closes its socket in the next turn of the loop

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Something done beside the main program; it ends with the life."""
        task = asyncio.ensure_future(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - as above
            self.log(f"panic serving: {type(error).__name__}: {error}")

    async def serve_streams(
        self,
        port: int,
        serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
        *,
        host: str = "",
        tls: ssl.SSLContext | None = None,
        sctp: bool = False,
    ) -> None:
        """Listens for connections; raises NetError."""
        sock = await bound(self.around.sockets, socket.SOCK_STREAM, port, host, IPPROTO_SCTP if sctp else 0)

        def connected_by(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._transports.add(writer.transport)
            self.spawn(self._served(serve(reader, writer), writer))

        try:
            server = await asyncio.start_server(
                connected_by, sock=sock, ssl=tls, backlog=1024, limit=web.HEAD_LIMIT_BYTES
            )
        except OSError as error:
            sock.close()
            raise NetError("other", f"listen tcp {host}:{port}: listen: {error.strerror}") from error
        self._servers.append(server)

    async def _served(self, work: Coroutine[Any, Any, None], writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, EOFError):  # the peer went away
                await work
        finally:
            writer.close()
            self._transports.discard(writer.transport)

    async def serve_http(self, port: int, handler: web.Handler, *, tls: ssl.SSLContext | None = None) -> None:
        """Answers HTTP (HTTPS with `tls`) on a port; raises NetError."""
        wall = self.around.clock.wall
        await self.serve_streams(port, lambda reader, writer: web.serve(reader, writer, handler, wall), tls=tls)

    async def serve_datagrams(self, port: int, answer: Datagram, *, host: str = "", size: int = 2048) -> None:
        """Answers UDP: what `answer` returns goes back, None is silence. Datagrams are cut at `size`. Raises NetError."""
        sock = await bound(self.around.sockets, socket.SOCK_DGRAM, port, host)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Answering(lambda data, peer: answer(data[:size], peer)), sock=sock
        )
        self._transports.add(transport)

    async def dial(
        self, address: str, port: int, *, kind: int, timeout_s: float | None, sctp: bool = False
    ) -> socket.socket:
        """A connected socket; raises NetError."""
        protocol = IPPROTO_SCTP if sctp else 0
        return await connected(self.around.sockets, kind, address, port, timeout_s=timeout_s, protocol=protocol)

    async def open_stream(
        self, address: str, port: int, tls: ssl.SSLContext | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A TCP connection as streams; raises NetError."""
        sock = await self.dial(address, port, kind=socket.SOCK_STREAM, timeout_s=None)
        return await asyncio.open_connection(sock=sock, ssl=tls, server_hostname="" if tls else None)


class _Answering(asyncio.DatagramProtocol):
    def __init__(self, answer: Datagram) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = self._answer(data, addr)
        if reply is not None:
            self._transport.sendto(reply, addr)


def peer_text(peer: tuple[Any, ...]) -> str:
    """A socket address as Go prints it."""
    return host_port(str(peer[0]), int(peer[1]))
