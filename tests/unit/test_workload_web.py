"""The hosted programs' HTTP: framing, limits and what is refused; and one GET as the client half reads it."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.workload import fetch, web
from nodeagent.workload.sockets import NetError


class Wire:
    """A writer that keeps what is written."""

    def __init__(self) -> None:
        self.sent = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.sent += data

    async def drain(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def get_extra_info(self, name: str) -> tuple[str, int]:
        return {"peername": ("10.0.0.2", 4711), "sockname": ("10.0.0.1", 80)}[name]


async def echo(request: web.Request) -> web.Response:
    """Answers what it understood."""
    return web.text(f"{request.method} {request.path} {request.body.decode()}")


async def converse(data: bytes) -> bytes:
    """What a server answers to these bytes and an end of file."""
    reader = asyncio.StreamReader(limit=web.HEAD_LIMIT_BYTES)
    reader.feed_data(data)
    reader.feed_eof()
    wire = Wire()
    await web.serve(reader, wire, echo, lambda: 0.0)  # type: ignore[arg-type]
    assert wire.closed
    return wire.sent


@pytest.mark.parametrize(
    ("sent", "bodies"),
    [
        (b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\n\r\n", ["GET /a ", "GET /b "]),
        (b"GET /a HTTP/1.0\r\n\r\nGET /b HTTP/1.0\r\n\r\n", ["GET /a "]),
        (b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /b HTTP/1.0\r\n\r\n", ["GET /a ", "GET /b "]),
        (b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\nGET /b HTTP/1.1\r\n\r\n", ["GET /a "]),
        (b"GET /a%20b?q HTTP/1.1\nHost: x\n\n", ["GET /a b "]),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: x\r\n\r\n", ["POST / abc", "GET / "]),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\nA\r\n0123456789\r\n0\r\nT: v\r\n\r\n", ["POST / ab0123456789"]),
    ],
)  # fmt: skip
async def test_requests_are_framed(sent: bytes, bodies: list[str]) -> None:
    """Keep-alive by version, bodies by length or chunks, bare line feeds taken."""
    answer = await converse(sent)
    assert [part.split("\r\n\r\n")[1] for part in answer.decode().split("HTTP/1.1 200 OK")[1:]] == bodies


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 3x\r\n\r\nabc", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -3\r\n\r\nabc", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"H: " + b"x" * 70000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"".join(b"H%d: %s\r\n" % (n, b"x" * 1000) for n in range(70)) + b"\r\n", 431),
    ],
)
async def test_what_is_not_http_is_refused(sent: bytes, status: int) -> None:
    """One answer with the right status, and the connection closes."""
    answer = (await converse(sent)).decode()
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert "Connection: close\r\n" in answer


async def test_head_continue_and_empty_responses() -> None:
    """HEAD has the length and no body; 100 comes before a body that waits for it; 204 has neither length nor body."""
    answer = await converse(b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"Content-Length: 8\r\n" in answer
    assert answer.endswith(b"\r\n\r\n")
    answer = await converse(b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nz")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert b"Content-Length" not in web.render(web.Response(b"x", 204), 0, head=False, close=False)
    assert web.render(web.Response(b"x", 299), 0, head=False, close=False).startswith(
        b"HTTP/1.1 299 status code 299\r\n"
    )


@given(st.binary(max_size=300))
def test_no_bytes_break_the_server(data: bytes) -> None:
    """Whatever comes, the connection is closed in the end, and nothing is raised."""
    asyncio.run(converse(data))


async def test_client_reads_all_framings() -> None:
    """By length, chunks or the end of the connection; an informational response is passed over; anything else is an error."""

    async def answering(data: bytes) -> fetch.Fetched:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()

        async def connect(_: str, __: int) -> tuple[asyncio.StreamReader, Wire]:
            return reader, Wire()

        return await fetch.get(connect, "10.0.0.1", 80, "/x")  # type: ignore[arg-type]

    for tail in (b"Content-Length: 2\r\n\r\nok", b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"\r\nok"):
        got = await answering(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\n" + tail)
        assert (got.status, got.body) == (404, b"ok")
    for bad in (b"", b"SSH-2.0\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"):
        with pytest.raises(NetError):
            await answering(bad)
