"""HTTP/1.1 for hosted programs: a small server on asyncio streams.

In: a connection and a handler. Out: responses, worded as Go's `net/http` words them. Keep-alive, chunked request bodies, HEAD,
`Expect: 100-continue` and limits are here; TLS is the listener's; routing and bodies are the handler's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

HEAD_LIMIT_BYTES = 64 * 1024
BODY_LIMIT_BYTES = 32 * 1024 * 1024
IDLE_LIMIT_S = 180.0
REASONS = {
    100: "Continue", 200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 206: "Partial Content",
    301: "Moved Permanently", 302: "Found", 303: "See Other", 304: "Not Modified", 307: "Temporary Redirect",
    308: "Permanent Redirect", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 408: "Request Timeout", 409: "Conflict", 412: "Precondition Failed",
    413: "Request Entity Too Large", 417: "Expectation Failed", 418: "I'm a teapot", 429: "Too Many Requests",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway",
    503: "Service Unavailable", 504: "Gateway Timeout", 505: "HTTP Version Not Supported",
}  # fmt: skip
TEXT = "text/plain; charset=utf-8"


class BadRequest(Exception):
    """The peer does not speak HTTP, or too much of it; `status` is the answer, after which the connection closes."""

    def __init__(self, status: int) -> None:
        super().__init__(REASONS[status])
        self.status = status


@dataclass(frozen=True, slots=True)
class Request:
    """One request, its body read whole."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    remote: tuple[str, int]
    local_port: int
    version: str = "HTTP/1.1"

    @property
    def path(self) -> str:
        """The decoded path."""
        return unquote(self.target.partition("?")[0])

    def header(self, name: str) -> str:
        """The first value of a header, or an empty string."""
        return next((value for key, value in self.headers if key == name.lower()), "")

    def query(self, name: str) -> str:
        """The first value of a query parameter, or an empty string."""
        return parse_qs(self.target.partition("?")[2], keep_blank_values=True).get(name, [""])[0]

    def form(self, name: str) -> str:
        """As Go's FormValue: a form field in the body comes before the query."""
        if self.header("content-type").startswith("application/x-www-form-urlencoded"):
            fields = parse_qs(self.body.decode(errors="replace"), keep_blank_values=True)
            if name in fields:
                return fields[name][0]
        return self.query(name)

    @property
    def keeps_alive(self) -> bool:
        """Whether the peer means to send another request on this connection."""
        connection = self.header("connection").lower()
        return "keep-alive" in connection if self.version == "HTTP/1.0" else "close" not in connection


@dataclass(frozen=True, slots=True)
class Response:
    """What to answer."""

    body: bytes = b""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


def text(body: str, status: int = 200) -> Response:
    """A plain text response."""
    return Response(body.encode(), status)


def problem(message: str, status: int) -> Response:
    """As Go's http.Error: the message and a line feed."""
    return Response(f"{message}\n".encode(), status, (("X-Content-Type-Options", "nosniff"),))


Handler = Callable[[Request], Awaitable[Response]]


async def serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler, wall: Callable[[], float]
) -> None:
    """Answers requests on one connection until either side has had enough."""
    try:
        while True:
            try:
                async with asyncio.timeout(IDLE_LIMIT_S):
                    request = await read_request(reader, writer)
            except BadRequest as error:
                answer = Response(f"{error.status} {error}".encode(), error.status)
                writer.write(render(answer, wall(), head=False, close=True))
                await writer.drain()
                return
            if request is None:
                return
            response = await handler(request)
            close = not request.keeps_alive or ("Connection", "close") in response.headers
            writer.write(render(response, wall(), head=request.method == "HEAD", close=close))
            await writer.drain()
            if close:
                return
    except (OSError, EOFError):  # the peer went away, or sat idle too long (TimeoutError is an OSError)
        return
    finally:
        writer.close()


def render(response: Response, wall: float, *, head: bool, close: bool) -> bytes:
    """The response's bytes."""
    names = {name.lower() for name, _ in response.headers}
    lines = [f"HTTP/1.1 {response.status} {REASONS.get(response.status, f'status code {response.status}')}"]
    lines += [f"{name}: {value}" for name, value in response.headers if name.lower() != "connection"]
    lines.append(time.strftime("Date: %a, %d %b %Y %H:%M:%S GMT", time.gmtime(wall)))
    has_body = response.status >= 200 and response.status not in (204, 304)
    if has_body:
        lines.append(f"Content-Length: {len(response.body)}")
        if response.body and "content-type" not in names:
            lines.append(f"Content-Type: {TEXT}")
    if close:
        lines.append("Connection: close")
    start = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
    return start + response.body if has_body and not head else start


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    """The next request, or None when the peer closed between two.

    Raises:
        BadRequest: what came is not a request that we take.
    """
    start = (await _line(reader)).strip()
    if not start and reader.at_eof():
        return None
    match start.split(" "):
        case [method, target, ("HTTP/1.0" | "HTTP/1.1") as version] if method and target:
            pass
        case [_, _, version] if version.startswith("HTTP/"):
            raise BadRequest(505)
        case _:
            raise BadRequest(400)
    headers = await read_headers(reader)
    fields = dict(headers)
    if version == "HTTP/1.1" and "host" not in fields:
        raise BadRequest(400)
    if fields.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await read_body(reader, fields, until_eof=False)
    remote, local = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
    return Request(method, target, headers, body, (remote[0], remote[1]), local[1], version)


async def read_headers(reader: asyncio.StreamReader) -> tuple[tuple[str, str], ...]:
    """Headers up to the empty line, names in lower case."""
    headers: list[tuple[str, str]] = []
    size = 0
    while line := (await _line(reader)).rstrip("\r\n"):
        size += len(line)
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise BadRequest(400)
        if size > HEAD_LIMIT_BYTES:
            raise BadRequest(431)
        headers.append((name.lower(), value.strip()))
    return tuple(headers)


async def read_body(reader: asyncio.StreamReader, fields: dict[str, str], *, until_eof: bool) -> bytes:
    """A body by its framing; `until_eof` is for responses that have none."""
    if "transfer-encoding" in fields:
        if fields["transfer-encoding"].lower() != "chunked":
            raise BadRequest(501)
        if "content-length" in fields:  # two framings that disagree are how requests get smuggled
            raise BadRequest(400)
        return await _read_chunks(reader)
    if "content-length" in fields:
        length = fields["content-length"]
        if not (length.isascii() and length.isdecimal()):
            raise BadRequest(400)
        if int(length) > BODY_LIMIT_BYTES:
            raise BadRequest(413)
        return await reader.readexactly(int(length))
    if not until_eof:
        return b""
    body = await reader.read(BODY_LIMIT_BYTES)
    while not reader.at_eof():
        part = await reader.read(BODY_LIMIT_BYTES)
        body += part
        if len(body) > BODY_LIMIT_BYTES:
            raise BadRequest(413)
    return body


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    parts: list[bytes] = []
    total = 0
    while True:
        digits = (await _line(reader)).partition(";")[0].strip()
        try:
            size = int(digits, 16) if digits and digits[0] in "0123456789abcdefABCDEF" else -1
        except ValueError:
            size = -1
        if size < 0:
            raise BadRequest(400)
        total += size
        if total > BODY_LIMIT_BYTES:
            raise BadRequest(413)
        if size == 0:
            await read_headers(reader)  # trailers
            return b"".join(parts)
        parts.append(await reader.readexactly(size))
        if (await _line(reader)).strip():
            raise BadRequest(400)


async def _line(reader: asyncio.StreamReader) -> str:
    try:
        line = await reader.readline()
    except ValueError as error:  # longer than the stream's limit
        raise BadRequest(431) from error
    if line and not line.endswith(b"\n"):
        raise EOFError("the peer closed in the middle of a line")
    return line.decode("latin-1")
