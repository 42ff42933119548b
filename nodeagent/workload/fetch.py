"""One HTTP GET: the client half of `web.py`, for `/dial` and for HTTP probes.

In: something that opens a stream to an address. Out: status, headers and body, or NetError worded as Go's client words it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from nodeagent.workload import web
from nodeagent.workload.sockets import NetError, host_port

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Open = Callable[[str, int], Awaitable[Streams]]
TIMED_OUT = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"


@dataclass(frozen=True, slots=True)
class Fetched:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def get(
    open_stream: Open, address: str, port: int, target: str, *, host: str = "", headers: Mapping[str, str] | None = None
) -> Fetched:
    """GETs `target` once, following nothing. The caller sets the deadline.

    Raises:
        NetError: no connection, or what came back is not HTTP.
    """
    reader, writer = await open_stream(address, port)
    try:
        fields = {"Host": host or host_port(address, port), "User-Agent": "podwire", "Connection": "close"}
        fields.update(headers or {})
        lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace"))
        await writer.drain()
        return await _read(reader)
    except (web.BadRequest, ValueError) as error:
        raise NetError("other", f"malformed HTTP response: {error}") from error
    except EOFError as error:
        raise NetError("other", "EOF") from error
    except ConnectionResetError as error:
        raise NetError("other", f"read tcp {host_port(address, port)}: read: connection reset by peer") from error
    except OSError as error:
        if isinstance(error, TimeoutError):
            raise
        raise NetError("other", f"read tcp {host_port(address, port)}: read: {error.strerror}") from error
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader) -> Fetched:
    while True:
        start = await reader.readline()
        if not start:
            raise EOFError
        version, _, rest = start.decode("latin-1").partition(" ")
        code = rest[:3]
        if not version.startswith("HTTP/") or not code.isdecimal():
            raise NetError("other", f'malformed HTTP response "{start.decode("latin-1").strip()}"')
        fields = dict(await web.read_headers(reader))
        if code != "100":
            break
    body = b"" if code in ("204", "304") else await web.read_body(reader, fields, until_eof=True)
    return Fetched(int(code), fields, body)
