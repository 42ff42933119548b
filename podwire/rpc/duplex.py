"""Calls that stream both ways: requests are fed from an iterator while answers are read, and the server's status is what is reported.

In: a method and an async iterator of requests. Out: the answers, or the PodwireError that the server raised. This exists because
grpc.aio overwrites the server's status with INTERNAL when a write is under way as the call ends (grpc/grpc#36066), which is every
time a command ends, or cannot start, while its input is still flowing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from typing import Any, TypeVar

import grpc

from podwire.rpc.status import call_metadata, raise_for, translated

Request = TypeVar("Request")
Response = TypeVar("Response")


async def duplex(
    method: grpc.aio.StreamStreamMultiCallable[Request, Response],
    requests: AsyncIterator[Request],
    *,
    doing: str = "",
    deadline_s: float | None = None,
) -> AsyncGenerator[Response, None]:
    """The answers, until the server ends the call or the reader stops; either ends the feeding. Raises PodwireError, or what `requests` raised."""
    stream = method(timeout=deadline_s, metadata=call_metadata())
    ends: list[grpc.aio.AioRpcError] = []
    stream.add_done_callback(lambda call: ends.append(_end(call)))
    feeding = asyncio.get_running_loop().create_task(_feed(stream, requests))
    try:
        with translated(doing):
            async for answer in stream:
                yield answer
    except asyncio.CancelledError:
        if feeding.done() and not feeding.cancelled() and (failure := feeding.exception()):
            raise failure from None
        raise
    except Exception:
        if not ends:
            raise
        if ends[0].code() is not grpc.StatusCode.OK:
            raise_for(ends[0], doing)
    finally:
        feeding.cancel()
        stream.cancel()
        await asyncio.wait([feeding])


async def _feed(stream: grpc.aio.StreamStreamCall[Request, Response], requests: AsyncIterator[Request]) -> None:
    """Sends what there is to send. When the call has ended, its reader knows why; when `requests` fails, the call ends."""
    try:
        async for request in requests:
            await stream.write(request)
        await stream.done_writing()
    except (grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError):
        return
    except Exception:
        stream.cancel()
        raise


def _end(call: Any) -> grpc.aio.AioRpcError:
    """The status of a call that has just got one, taken before anything can overwrite it."""
    code, details, trailing = (_settled(part) for part in (call.code(), call.details(), call.trailing_metadata()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details)


def _settled(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    coroutine.close()
    raise RuntimeError("the call has no status yet")
