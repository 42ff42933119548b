"""`serve-hostname`: the hostname over HTTP, raw TCP or UDP.

In: any request. Out: the hostname. After TERM it lingers for 60 s, so that clients of a pod being deleted are still served.
"""

from __future__ import annotations

import asyncio

from nodeagent.workload.flags import parse
from nodeagent.workload.life import Life, peer_text
from nodeagent.workload.sockets import NetError
from nodeagent.workload.web import Request, Response

FLAGS = {"tcp": False, "udp": False, "http": True, "close": False, "port": 9376}
LINGER_S = 60.0


async def main(life: Life, args: tuple[str, ...]) -> int:
    """Serves until 60 s after TERM."""
    flags = parse(args, FLAGS)
    tcp, udp, http, port = flags.given("tcp"), flags.given("udp"), flags.given("http"), flags.number("port")
    if http and (tcp or udp):
        raise NetError("other", "Can't server TCP/UDP mode and HTTP mode at the same time")
    name = life.around.hostname.encode()

    async def stream(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        life.log(f"TCP request from {peer_text(writer.get_extra_info('peername'))}")
        writer.write(name)
        await writer.drain()

    def datagram(_: bytes, peer: tuple[str, int]) -> bytes:
        life.log(f"UDP request from {peer_text(peer)}")
        return name

    async def page(request: Request) -> Response:
        life.log(f"HTTP request from {peer_text(request.remote)}")
        return Response(name, headers=(("Connection", "close"),) if flags.given("close") else ())

    if tcp:
        await life.serve_streams(port, stream)
    if udp:
        await life.serve_datagrams(port, datagram)
    if http:
        await life.serve_http(port, page)
    life.log(f"Serving on port {port}.")
    life.serving.set()
    await life.terminated.wait()
    life.log("Shutting down after receiving signal: terminated.")
    life.log("Awaiting pod deletion.")
    await life.around.clock.sleep(LINGER_S)
    return 0
