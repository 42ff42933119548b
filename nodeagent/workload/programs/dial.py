"""`/dial` of netexec: the server dials somewhere itself and says what came back, so that a pod can act as a client without exec.

In: host, port, protocol, request, tries. Out: 200 with JSON `responses` and `errors`; 400 when the question is wrong. A failed last
try is still 200, as in upstream's code (its text says 417).
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import urljoin, urlsplit

from nodeagent.workload.fetch import TIMED_OUT, get
from nodeagent.workload.life import Life, peer_text
from nodeagent.workload.sockets import NetError, go_reason, host_port
from nodeagent.workload.web import Request, Response, problem, text

TIMEOUT_S = 5.0
MOST_REDIRECTS = 10
MOST_TRIES = 100_000
REDIRECTS = (301, 302, 303, 307, 308)


async def dial(life: Life, request: Request) -> Response:
    """Answers one `/dial`."""
    host, port, wanted, protocol, tries_word = (
        request.query(name) for name in ("host", "port", "request", "protocol", "tries")
    )
    life.log(f"GET /dial?host={host}&protocol={protocol}&port={port}&request={wanted}&tries={tries_word}")
    try:
        tries = int(tries_word or "1")
    except ValueError:
        reason = f'strconv.Atoi: parsing "{tries_word}": invalid syntax'
        return problem(f"tries parameter is invalid. {reason}", 400)
    if not wanted:
        return problem("request parameter not specified. <nil>", 400)
    dialers: dict[str, Callable[[Life, str, str, int], Awaitable[str]]] = {
        "": _http,
        "http": _http,
        "udp": _udp,
        "sctp": _sctp,
    }
    dialer = dialers.get(protocol.lower())
    if dialer is None:
        return problem(f"unsupported protocol. {protocol}", 400)
    try:
        number = _port(port)
        address = (await life.around.names.resolve(host))[0]
    except NetError as error:
        return problem(f"host and/or port param are invalid. {error}", 400)
    errors: list[str] = []
    responses: list[str] = []
    last = ""
    for _ in range(min(tries, MOST_TRIES)):
        try:
            last = await dialer(life, wanted, address, number)
            responses.append(last)
        except NetError as error:
            last = ""
            errors.append(str(error))
    output: dict[str, list[str]] = {}
    if errors:
        output["errors"] = errors
    if last:  # upstream looks at the last answer only
        output["responses"] = responses
    return text(json.dumps(output, separators=(",", ":"), ensure_ascii=False))


def _port(word: str) -> int:
    if word.isdecimal() and int(word) <= 65535:
        return int(word)
    if word.isdecimal():
        raise NetError("dns", f"address {word}: invalid port")
    raise NetError("dns", f"lookup tcp/{word}: unknown port")


async def _http(life: Life, wanted: str, address: str, port: int) -> str:
    url = f"http://{host_port(address, port)}/{wanted}"
    first = url
    try:
        async with asyncio.timeout(TIMEOUT_S):
            for _ in range(MOST_REDIRECTS):
                parts = urlsplit(url)
                target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
                there = (await life.around.names.resolve(parts.hostname or ""))[0]
                got = await get(life.open_stream, there, parts.port or 80, target, host=parts.netloc)
                location = got.headers.get("location", "")
                if got.status not in REDIRECTS or not location:
                    return got.body.decode(errors="replace")
                url = urljoin(url, location)
            raise NetError("other", f"stopped after {MOST_REDIRECTS} redirects")
    except TimeoutError as error:
        raise NetError("timeout", f'Get "{url}": {TIMED_OUT}') from error
    except (NetError, ValueError) as error:
        raise NetError("other", f'Get "{url if url != first else first}": {error}') from error


async def _udp(life: Life, wanted: str, address: str, port: int) -> str:
    try:
        sock = await life.dial(address, port, kind=socket.SOCK_DGRAM, timeout_s=TIMEOUT_S)
    except NetError as error:
        raise NetError("other", f"udp dial failed. err:{error}") from error
    with sock:
        return await _ask(sock, wanted, "udp", 2048)


async def _sctp(life: Life, wanted: str, address: str, port: int) -> str:
    try:
        sock = await life.dial(address, port, kind=socket.SOCK_STREAM, timeout_s=TIMEOUT_S, sctp=True)
    except NetError as error:
        raise NetError("other", f"sctp dial failed. err:{error}") from error
    with sock:
        return await _ask(sock, wanted, "sctp", 1024)


async def _ask(sock: socket.socket, wanted: str, name: str, size: int) -> str:
    loop = asyncio.get_running_loop()
    path = f"{name} {peer_text(sock.getsockname())}->{peer_text(sock.getpeername())}"
    try:
        await loop.sock_sendall(sock, wanted.encode())
    except OSError as error:
        reason = f"write {path}: write: {go_reason(error)}"
        raise NetError("other", f"{name} connection write failed. err:{reason}") from error
    reason = "<nil>"
    try:
        async with asyncio.timeout(TIMEOUT_S):
            if answer := await loop.sock_recv(sock, size):
                return answer.decode(errors="replace")
    except TimeoutError:
        reason = f"read {path}: i/o timeout"
    except OSError as error:
        reason = f"read {path}: read: {go_reason(error)}"
    raise NetError("other", f"reading from {name} connection failed. err:'{reason}'")
