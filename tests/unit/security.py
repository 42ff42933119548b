"""What the tests of identity, calls and joining share: a clock that moves when waited on, a disk in memory, servers of any service."""

from __future__ import annotations

import asyncio
import importlib
import io
import logging
import pkgutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import structlog
from google.protobuf import message_factory
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor

import podwire.api.v1
from podwire import telemetry, tls
from podwire.seams import SeededRng, SystemClock

DAY_S = 24 * 3600.0


class MovingClock:
    """Starts at the machine's time, as TLS libraries look at that themselves; a sleep moves it on and gives way once."""

    def __init__(self, offset_s: float = 0.0) -> None:
        self.now = SystemClock().wall() + offset_s
        self.slept: list[float] = []

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept.append(seconds)
        await breathe()


async def breathe() -> None:
    """Lets every task that is ready run once."""
    loop = asyncio.get_running_loop()
    turn = loop.create_future()
    loop.call_soon(turn.set_result, None)
    await turn


class MemoryDisk:
    """Files in a dict. `fail` names files whose writing fails."""

    def __init__(self) -> None:
        self.files: dict[Path, bytes] = {}
        self.fail: set[str] = set()

    def read(self, path: Path) -> bytes | None:
        return self.files.get(path)

    def replace(self, path: Path, content: bytes) -> None:
        if path.name in self.fail:
            raise OSError(28, "No space left on device", str(path))
        self.files[path] = content

    def append(self, path: Path, content: bytes) -> None:
        self.files[path] = self.files.get(path, b"") + content

    def remove(self, path: Path) -> None:
        self.files.pop(path, None)

    def names(self, directory: Path) -> list[str]:
        return sorted(path.name for path in self.files if path.parent == directory)


def authority(cluster: str = "lab", seed: int = 1, offset_s: float = 0.0) -> tls.CertificateAuthority:
    """A CA, made some time from now (negative: in the past)."""
    return tls.make_ca(cluster, MovingClock(offset_s), SeededRng(seed))


def services() -> Iterator[ServiceDescriptor]:
    """Every service of every proto file there is, found and not listed, so that a new one cannot be forgotten."""
    for module in pkgutil.iter_modules(podwire.api.v1.__path__, "podwire.api.v1."):
        if module.name.endswith("_pb2"):
            descriptor: FileDescriptor = importlib.import_module(module.name).DESCRIPTOR
            yield from descriptor.services_by_name.values()


def methods() -> dict[str, MethodDescriptor]:
    """Every RPC by its full name."""
    return {f"/{service.full_name}/{method.name}": method for service in services() for method in service.methods}


def permissive(service: ServiceDescriptor) -> grpc.GenericRpcHandler:
    """Handlers that answer every call of a service: what stops a call is then the gate alone."""
    return grpc.method_handlers_generic_handler(
        service.full_name, {method.name: _permissive(method) for method in service.methods}
    )


def _permissive(method: MethodDescriptor) -> grpc.RpcMethodHandler[Any, Any]:
    request = message_factory.GetMessageClass(method.input_type)
    response = message_factory.GetMessageClass(method.output_type)

    async def unary(_request: Any, _context: Any) -> Any:
        return response()

    async def stream(_request: Any, _context: Any) -> AsyncIterator[Any]:
        yield response()

    parse, write = request.FromString, response.SerializeToString
    match bool(method.client_streaming), bool(method.server_streaming):
        case False, False:
            return grpc.unary_unary_rpc_method_handler(unary, parse, write)
        case False, True:
            return grpc.unary_stream_rpc_method_handler(stream, parse, write)
        case True, False:
            return grpc.stream_unary_rpc_method_handler(unary, parse, write)
        case _:
            return grpc.stream_stream_rpc_method_handler(stream, parse, write)


async def attempt(channel: grpc.aio.Channel, name: str, method: MethodDescriptor) -> str:
    """Makes a call with an empty request and says how it ended."""
    request = message_factory.GetMessageClass(method.input_type)()
    write, parse = type(request).SerializeToString, message_factory.GetMessageClass(method.output_type).FromString
    try:
        match bool(method.client_streaming), bool(method.server_streaming):
            case False, False:
                await channel.unary_unary(name, write, parse)(request, timeout=10)
            case False, True:
                await _first(channel.unary_stream(name, write, parse)(request, timeout=10))
            case True, True:
                await _first(channel.stream_stream(name, write, parse)(iter([request]), timeout=10))
            case _:
                await channel.stream_unary(name, write, parse)(iter([request]), timeout=10)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def _first(answers: Any) -> None:
    async for _ in answers:
        pass


@asynccontextmanager
async def running(server: grpc.aio.Server) -> AsyncIterator[grpc.aio.Server]:
    """A server from start to stop."""
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0)


@contextmanager
def logs(level: str = "debug") -> Iterator[io.StringIO]:
    """What a process writes to its log within the block; afterwards logging is as it was."""
    before, root = structlog.get_config(), logging.getLogger()
    handlers, root_level, out = root.handlers[:], root.level, io.StringIO()
    root.handlers.clear()
    telemetry.setup("test", level=level, stream=out)
    try:
        yield out
    finally:
        structlog.configure(**before)
        structlog.contextvars.clear_contextvars()
        root.handlers[:] = handlers
        root.setLevel(root_level)
