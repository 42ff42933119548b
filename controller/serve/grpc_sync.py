"""NodeSyncService: agents' streams, handed to the controller's sessions, and renewal of their certificates.

In: calls that the gate let through, so that the caller is a node by its certificate. Out: `Controller.session` over a `Transport`. The
node is who the certificate says it is; no field of a message is asked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc

from controller.ca import ClusterCA
from controller.controller import Controller
from podwire import rpc
from podwire.api.v1 import node_sync_pb2 as sync
from podwire.api.v1 import node_sync_pb2_grpc as sync_grpc
from podwire.errors import Unavailable

Context = grpc.aio.ServicerContext[sync.SyncRequest, sync.SyncResponse]


class GrpcTransport:
    """One stream. Writing waits while the agent does not read."""

    def __init__(self, requests: AsyncIterator[sync.SyncRequest], context: Context) -> None:
        self._requests = requests
        self._context = context

    async def send(self, message: sync.SyncResponse) -> None:
        try:
            await self._context.write(message)
        except (grpc.RpcError, grpc.aio.UsageError, grpc.aio.InternalError) as error:
            raise Unavailable("the agent's stream broke") from error

    async def receive(self) -> sync.SyncRequest | None:
        try:
            return await anext(self._requests)
        except StopAsyncIteration:
            return None
        except (grpc.RpcError, grpc.aio.UsageError, grpc.aio.InternalError) as error:
            raise Unavailable("the agent's stream broke") from error


class NodeSyncService(sync_grpc.NodeSyncServiceServicer):
    """See the module's docstring."""

    def __init__(self, controller: Controller, ca: ClusterCA) -> None:
        self._controller = controller
        self._ca = ca

    async def Sync(  # type: ignore[override]  # writes to the context instead of yielding
        self, request_iterator: AsyncIterator[sync.SyncRequest], context: Context
    ) -> None:
        """Serves one agent until its stream ends."""
        transport = GrpcTransport(aiter(request_iterator), context)
        await self._controller.session(rpc.peer_identity().name, transport)

    async def RenewCertificate(
        self, request: sync.RenewCertificateRequest, context: object
    ) -> sync.RenewCertificateResponse:
        """A fresh certificate for the caller's own name."""
        certificate = self._ca.sign_node(request.csr_pem, rpc.peer_identity().name)
        return sync.RenewCertificateResponse(certificate_pem=certificate, ca_pem=self._ca.ca_pem)
