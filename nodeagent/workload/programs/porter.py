"""`porter`: one server per environment variable `SERVE_{PORT,TCP_PORT,UDP_PORT,TLS_PORT,SCTP_PORT}_<n>`, which answers its value.

In: the environment. Out: servers. A port that cannot be had is a line in the log, as upstream has it, and the others go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from nodeagent.workload.certificates import DEFAULT_CERTIFICATE, DEFAULT_KEY, server_context
from nodeagent.workload.flags import parse
from nodeagent.workload.life import Life
from nodeagent.workload.programs.netexec import go_json
from nodeagent.workload.sockets import NetError
from nodeagent.workload.web import Request, Response, text

FLAGS = {"json-response": False}
PID_1_TERM = 2  # what a Go program that is PID 1 and does not handle TERM exits with


async def main(life: Life, args: tuple[str, ...]) -> int:
    """Serves until TERM."""
    as_json = parse(args, FLAGS).given("json-response")
    starters: tuple[tuple[str, Callable[[int, str], Awaitable[None]]], ...] = (
        ("SERVE_PORT_", lambda port, value: life.serve_http(port, page(value, as_json=as_json))),
        ("SERVE_TCP_PORT_", lambda port, value: life.serve_http(port, page(value, as_json=as_json))),
        ("SERVE_UDP_PORT_", lambda port, value: life.serve_datagrams(port, lambda _data, _peer: value.encode())),
        ("SERVE_SCTP_PORT_", lambda port, value: _sctp(life, port, value)),
        ("SERVE_TLS_PORT_", lambda port, value: _tls(life, port, page(value, as_json=as_json))),
    )
    for name, value in sorted(life.around.env.items()):
        for prefix, start in starters:
            if name.startswith(prefix):
                await _start(life, name.removeprefix(prefix), value, start)
    life.serving.set()
    await life.terminated.wait()
    return PID_1_TERM


async def _start(life: Life, port: str, value: str, start: Callable[[int, str], Awaitable[None]]) -> None:
    if not port.isdecimal() or int(port) > 65535:
        life.log(f'server on port "{port}" failed: listen tcp: address {port}: invalid port')
        return
    try:
        await start(int(port), value)
    except NetError as error:
        life.log(f'server on port "{port}" failed: {error}')


def page(value: str, *, as_json: bool) -> Callable[[Request], Awaitable[Response]]:
    """A handler that answers `value` to every request."""

    async def answer(request: Request) -> Response:
        if as_json:
            document = go_json({"Method": request.method, "Body": value})
            return Response(document.encode(), headers=(("Content-Type", "application/json"),))
        return text(value)

    return answer


async def _tls(life: Life, port: int, handler: Callable[[Request], Awaitable[Response]]) -> None:
    env = life.around.env
    certificate, key = env.get("CERT_FILE") or DEFAULT_CERTIFICATE, env.get("KEY_FILE") or DEFAULT_KEY
    tls = await server_context(certificate, key, life.around.directory)
    await life.serve_http(port, handler, tls=tls)


async def _sctp(life: Life, port: int, value: str) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        life.log("Sending response")
        writer.write(value.encode())
        await writer.drain()
        life.log("Response sent")

    await life.serve_streams(port, answer, sctp=True)
    life.log("Started SCTP server")
