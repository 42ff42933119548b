"""Errors over the wire: one table between the error tree and gRPC's statuses, read in both directions.

In: a `PodwireError` on the server, an `RpcError` on the client. Out: a status whose trailing metadata carries the whole error, and
the same error again on the other side. A peer that is not podwire sees the code and the sentence; one that sends no metadata is read by its code.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Never, TypeVar

import grpc
import msgspec

from podwire import errors, telemetry

Request = TypeVar("Request")
Response = TypeVar("Response")

ERROR_KEY = "podwire-error-bin"
REQUEST_ID_KEY = "podwire-request-id"
DEADLINE_S = 15.0  # of a call that names none
MAX_DETAILS = 500  # characters of the sentence as gRPC spells it, which may triple them
MAX_SENTENCE = 2_000  # characters of it in the metadata: all of that must stay below 8 KiB

CODES: dict[type[errors.PodwireError], grpc.StatusCode] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.Conflict: grpc.StatusCode.ABORTED,
    errors.Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Expired: grpc.StatusCode.OUT_OF_RANGE,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.KernelError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PodwireError: grpc.StatusCode.INTERNAL,
}
_TYPES = {kind.__name__: kind for kind in CODES}
_BY_CODE: dict[grpc.StatusCode, type[errors.PodwireError]] = {
    code: kind for kind, code in CODES.items() if kind is not errors.KernelError
} | {
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.Unavailable,
    grpc.StatusCode.CANCELLED: errors.Unavailable,
}


class _Wire(msgspec.Struct, omit_defaults=True):
    """An error as the metadata carries it."""

    type: str
    message: str
    hint: str = ""
    field: str = ""
    errno: int = 0
    operation: str = ""
    obj: str = ""


def code_of(error: errors.PodwireError) -> grpc.StatusCode:
    """The status of an error: that of its nearest class in the table."""
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)


def encode(error: errors.PodwireError) -> bytes:
    """The error as JSON, for the metadata."""
    kind = next(kind for kind in type(error).__mro__ if kind in CODES)
    wire = _Wire(kind.__name__, error.message[:MAX_SENTENCE], error.hint[:MAX_DETAILS])
    if isinstance(error, errors.InvalidInput):
        wire.field = error.field[:MAX_DETAILS]
    if isinstance(error, errors.KernelError):
        wire.errno, wire.operation, wire.obj = error.errno, error.operation[:MAX_DETAILS], error.obj[:MAX_DETAILS]
    return msgspec.json.encode(wire)


def decode(content: bytes) -> errors.PodwireError | None:
    """The reverse; None where it is not such JSON."""
    try:
        wire = msgspec.json.decode(content, type=_Wire)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    kind = _TYPES.get(wire.type, errors.PodwireError)
    if kind is errors.InvalidInput:
        return errors.InvalidInput(wire.message, field=wire.field, hint=wire.hint)
    if kind is errors.KernelError:
        error = errors.KernelError(wire.errno, wire.operation, wire.obj)
        error.message, error.hint, error.args = wire.message, wire.hint, (wire.message,)
        return error
    return kind(wire.message, hint=wire.hint)


def error_of(error: grpc.RpcError, doing: str = "") -> errors.PodwireError:
    """What the other side raised, or why it could not be asked. `doing` names the call for errors that have no sentence of their own."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return errors.Unavailable(f"{doing or 'the call'} failed: {error}")
    for key, value in error.trailing_metadata() or ():
        if key == ERROR_KEY and isinstance(value, bytes) and (found := decode(value)):
            return found
    kind = _BY_CODE.get(error.code(), errors.PodwireError)
    details = error.details() or error.code().name
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        details = "no answer in time"
    return kind(f"{doing}: {details}" if doing else details)


def raise_for(error: grpc.RpcError, doing: str = "") -> Never:
    """Raises the PodwireError that an RpcError stands for."""
    raise error_of(error, doing) from error


@contextmanager
def translated(doing: str = "") -> Iterator[None]:
    """Turns RpcErrors from the block into PodwireErrors."""
    try:
        yield
    except grpc.RpcError as error:
        raise_for(error, doing)
    except grpc.aio.UsageError as error:  # a channel or stream that is closed already
        raise errors.Unavailable(f"{doing or 'the call'} failed: {error}") from error


async def call(
    method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
    request: Request,
    *,
    doing: str = "",
    deadline_s: float = DEADLINE_S,
) -> Response:
    """One call with a deadline and a request id; raises PodwireError."""
    with translated(doing):
        return await method(request, timeout=deadline_s, metadata=call_metadata())


async def stream(
    method: grpc.aio.UnaryStreamMultiCallable[Request, Response],
    request: Request,
    *,
    doing: str = "",
    deadline_s: float | None = None,
) -> AsyncGenerator[Response, None]:
    """The answers of a streaming call, which ends when the reader stops; raises PodwireError."""
    with translated(doing):
        answers = method(request, timeout=deadline_s, metadata=call_metadata())
        try:
            async for answer in answers:
                yield answer
        finally:
            answers.cancel()


def call_metadata() -> tuple[tuple[str, str], ...]:
    """Hands the request id on, so that one user's call reads as one thing in every log."""
    current = telemetry.request_id.get()
    return ((REQUEST_ID_KEY, current),) if current else ()
