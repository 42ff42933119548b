"""The gate that every call to a server passes: who calls, may they, and what became of it.

In: calls, and a table {full RPC name: roles}. Out: handlers that run with `peer_identity()` and a request id set, or a refusal before
the request was even parsed. A call without an entry is refused. Identity comes from the verified certificate or from the Unix socket,
never from a message. Errors leave as statuses (`status.py`); one nobody expected leaves as INTERNAL with the request id and nothing else.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from typing import Any

import grpc

from podwire.errors import InvalidInput, PermissionDenied, PodwireError, Unauthenticated
from podwire.identity import Identity, Role, parse_uri
from podwire.rpc.status import ERROR_KEY, MAX_DETAILS, REQUEST_ID_KEY, code_of, encode
from podwire.seams import Clock, Rng
from podwire.telemetry import logger, request_id

Table = Mapping[str, frozenset[Role]]
"""Full RPC name, such as `/podwire.api.v1.ControlService/Get`, to the roles that may call it."""
Context = grpc.aio.ServicerContext[Any, Any]

_REQUEST_ID = re.compile(r"[-0-9a-zA-Z]{1,64}")
_peer: ContextVar[Identity | None] = ContextVar("podwire_peer", default=None)
_peer_host: ContextVar[str] = ContextVar("podwire_peer_host", default="")
_log = logger(__name__)


def peer_identity() -> Identity:
    """Who makes the call being served."""
    identity = _peer.get()
    if identity is None:
        raise Unauthenticated("there is no call being served here")
    return identity


def peer_host() -> str:
    """The address the call being served comes from, without the port; "unix" for a Unix socket. Good for limits, not for trust."""
    return _peer_host.get()


def identify(context: Context) -> Identity:
    """Who the transport says the caller is; raises Unauthenticated."""
    facts = context.auth_context()
    transport = _first(facts, "transport_security_type")
    if transport == "ssl":
        pem = _first(facts, "x509_pem_cert")
        if not pem:
            return Identity(Role.ANONYMOUS)
        fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
        return parse_uri(_first(facts, "peer_spiffe_id"), fingerprint)  # absent unless there is exactly one
    if context.peer().startswith("unix:"):
        return Identity(Role.ADMIN)
    raise Unauthenticated("this listener wants TLS with a certificate")


class Gate(grpc.aio.ServerInterceptor):
    """See the module's docstring. `refuse` may turn away a caller the table lets in (a revoked certificate): it says why, or nothing."""

    def __init__(
        self,
        table: Table,
        cluster: str,
        *,
        clock: Clock,
        rng: Rng,
        refuse: Callable[[Identity], str] = lambda _identity: "",
    ) -> None:
        self._table = table
        self._cluster = cluster
        self._clock = clock
        self._rng = rng
        self._refuse = refuse

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        return None if handler is None else self._guarded(handler_call_details.method, handler)

    def _guarded(self, method: str, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        """The same handler behind the gate. A single request arrives as bytes and is parsed only once its sender may send it."""
        parse = handler.request_deserializer or bytes
        write = handler.response_serializer
        if handler.request_streaming:
            behaviour = handler.stream_stream or handler.stream_unary
        else:
            behaviour = _parsing(handler.unary_stream or handler.unary_unary, parse)

        async def answer(request: Any, context: Context) -> Any:
            async with self._passage(method, context):
                return await behaviour(request, context)

        async def answers(request: Any, context: Context) -> AsyncIterator[Any]:
            async with self._passage(method, context), aclosing(_each(behaviour(request, context))) as messages:
                async for message in messages:
                    yield message

        match handler.request_streaming, handler.response_streaming:
            case False, False:
                return grpc.unary_unary_rpc_method_handler(answer, None, write)
            case False, True:
                return grpc.unary_stream_rpc_method_handler(answers, None, write)
            case True, False:
                return grpc.stream_unary_rpc_method_handler(answer, parse, write)
            case _:
                return grpc.stream_stream_rpc_method_handler(answers, parse, write)

    @asynccontextmanager
    async def _passage(self, method: str, context: Context) -> AsyncIterator[None]:
        """Lets a call in, or aborts it; logs how it went. gRPC serves each call in a task of its own, so nothing set here leaks."""
        started = self._clock.monotonic()
        request_id.set(self._request_id(context))
        _peer_host.set(_host(context.peer()))
        outcome = "OK"
        try:
            self._admit(method, context)
            yield
        except PodwireError as error:
            code = code_of(error)
            outcome = code.name
            metadata = ((ERROR_KEY, encode(error)), (REQUEST_ID_KEY, request_id.get()))
            await context.abort(code, error.message[:MAX_DETAILS], metadata)
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "CANCELLED"
            raise
        except grpc.aio.AbortError:
            outcome = "ABORTED"  # the handler chose its own status
            raise
        except Exception:  # noqa: BLE001 - the caller must get an answer, and the secret of what failed stays in the log
            outcome = "INTERNAL"
            _log.exception("call failed", method=method, peer=_peer.get())
            failure = PodwireError(f"the server failed; its log says why under request id {request_id.get()}")
            await context.abort(grpc.StatusCode.INTERNAL, failure.message, ((ERROR_KEY, encode(failure)),))
        finally:
            elapsed_ms = round((self._clock.monotonic() - started) * 1000, 2)
            line = _log.warning if outcome in {"UNAUTHENTICATED", "PERMISSION_DENIED"} else _log.debug
            line("call", method=method, peer=_peer.get(), host=_peer_host.get(), outcome=outcome, ms=elapsed_ms)

    def _admit(self, method: str, context: Context) -> None:
        identity = identify(context)
        _peer.set(identity)
        if identity.cluster and identity.cluster != self._cluster:
            raise Unauthenticated(f"{identity} belongs to cluster {identity.cluster}, not to {self._cluster}")
        if identity.role not in self._table.get(method, frozenset()):
            if identity.role is Role.ANONYMOUS:
                raise Unauthenticated(f"{method} wants a certificate")
            raise PermissionDenied(f"{identity} may not call {method}")
        if reason := self._refuse(identity):
            raise Unauthenticated(f"{identity} is refused: {reason}")

    def _request_id(self, context: Context) -> str:
        """The caller's id where it sent a sane one, else a new one."""
        for key, value in context.invocation_metadata() or ():
            if key == REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
                return value
        return self._rng.uid()


def _parsing(
    behaviour: Callable[[Any, Context], Any], parse: Callable[[bytes], Any]
) -> Callable[[bytes, Context], Any]:
    def parsed(content: bytes, context: Context) -> Any:
        try:
            request = parse(content)
        except Exception as error:  # protobuf's DecodeError has no base of its own worth naming here
            raise InvalidInput("the request is not a valid message of this call") from error
        return behaviour(request, context)

    return parsed


async def _each(result: Any) -> AsyncGenerator[Any, None]:
    """What a streaming handler yields; one that writes to the context itself instead is awaited."""
    if not hasattr(result, "__aiter__"):
        await result
        return
    async with aclosing(result) as messages:
        async for message in messages:
            yield message


def _first(facts: Mapping[str, Any], key: str) -> str:
    values = list(facts.get(key) or ())
    return values[0].decode(errors="replace") if values else ""


def _host(peer: str) -> str:
    """`ipv4:10.0.0.7:4711` → `10.0.0.7`; `ipv6:[fd00::7]:4711` → `fd00::7`."""
    family, _, rest = peer.partition(":")
    if family == "unix":
        return "unix"
    return rest.replace("%5B", "[").replace("%5D", "]").rpartition(":")[0].strip("[]")
