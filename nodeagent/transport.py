"""The network seam of the agent: one stream to the controller.

In: `SyncRequest`s to send. Out: `SyncResponse`s as they come. The real one is a gRPC bidirectional stream over mTLS; the simulator's
is a pair of queues with a seed. `sync.py` uses either.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

import grpc

from podwire.api.v1 import node_sync_pb2 as sync
from podwire.api.v1 import node_sync_pb2_grpc as sync_grpc
from podwire.errors import Unavailable


class SyncTransport(Protocol):
    """An open stream."""

    async def send(self, message: sync.SyncRequest) -> None:
        """Sends one message; raises Unavailable when the stream is broken."""

    async def receive(self) -> sync.SyncResponse | None:
        """The next message; None when the other side ended the stream. Raises Unavailable when it broke."""

    async def close(self) -> None:
        """Ends the stream; no error when it has ended."""


class Connector(Protocol):
    """Opens streams."""

    async def connect(self) -> SyncTransport:
        """A new stream; raises Unavailable when there is no controller to be had."""


class GrpcTransport:
    """A stream over a channel. The channel belongs to the stream and goes with it, so that renewed certificates take effect."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._call = sync_grpc.NodeSyncServiceStub(channel).Sync()
        self._messages: AsyncIterator[sync.SyncResponse] = aiter(self._call)

    async def send(self, message: sync.SyncRequest) -> None:
        try:
            await self._call.write(message)
        except (grpc.RpcError, grpc.aio.UsageError) as error:
            raise Unavailable(f"the stream to the controller broke: {_reason(error)}") from error

    async def receive(self) -> sync.SyncResponse | None:
        try:
            return await anext(self._messages)
        except StopAsyncIteration:
            return None
        except (grpc.RpcError, grpc.aio.UsageError) as error:
            raise Unavailable(f"the stream to the controller broke: {_reason(error)}") from error

    async def close(self) -> None:
        self._call.cancel()
        await self._channel.close(None)


def _reason(error: Exception) -> str:
    return error.details() or str(error.code()) if isinstance(error, grpc.aio.AioRpcError) else str(error)


class GrpcConnector:
    """Opens a gRPC stream with whatever certificate is the newest: `channel` is called anew for each."""

    def __init__(self, channel: Callable[[], grpc.aio.Channel]) -> None:
        self._channel = channel

    async def connect(self) -> SyncTransport:
        return GrpcTransport(self._channel())
