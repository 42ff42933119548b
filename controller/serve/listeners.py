"""The controller's servers: everything that listens.

In: a `Controller`, a CA and addresses. Out: two gRPC servers. One has the Unix socket of the local driver and the mTLS port for users and
nodes; the other, on a port of its own without client certificates, has JoinService and nothing else. Both say their health.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer  # the package's own public class, which it does not re-export

from controller.authz import TABLE
from controller.ca import ClusterCA
from controller.controller import Controller
from controller.serve.agents import Agents
from controller.serve.grpc_control import ControlService
from controller.serve.grpc_join import JoinService
from controller.serve.grpc_sync import NodeSyncService
from controller.serve.relay import Relay
from controller.tokens import TokenBook
from podwire import rpc, tls
from podwire.api.v1 import control_pb2_grpc as control_grpc
from podwire.api.v1 import node_sync_pb2_grpc as sync_grpc
from podwire.rpc.channels import STRANGER_AGE_S
from podwire.seams import Clock, Rng

GRACE_S = 0.5  # for calls under way when the controller stops


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where to listen. Port 0 picks one; None: not at all."""

    socket: Path | None = None
    listen: tuple[str, int] | None = None
    join_listen: tuple[str, int] | None = None


class Listeners:
    """See the module's docstring."""

    def __init__(self, controller: Controller, ca: ClusterCA, addresses: Addresses, *, clock: Clock, rng: Rng) -> None:
        self._ca = ca
        self._clock = clock
        self._rng = rng
        self._credentials = rpc.ServerCredentials(ca.issue_controller())
        self._stranger_credentials = rpc.ServerCredentials(self._credentials.current, ask_client=False)
        self._agents = Agents(controller.hub, self._credentials.current)
        self._health = HealthServicer()
        cluster = controller.snapshot.spec.name
        tokens = TokenBook(controller.store, clock=clock, rng=rng)
        relay = Relay(controller.snapshot, self._agents)
        self._main = rpc.server(TABLE, cluster, clock=clock, rng=rng, refuse=ca.refusal)
        control_grpc.add_ControlServiceServicer_to_server(ControlService(controller, tokens, ca, relay), self._main)
        sync_grpc.add_NodeSyncServiceServicer_to_server(NodeSyncService(controller, ca), self._main)
        self._join = rpc.server(TABLE, cluster, clock=clock, rng=rng, connection_age_s=STRANGER_AGE_S)
        sync_grpc.add_JoinServiceServicer_to_server(JoinService(controller.store, tokens, ca), self._join)
        for server in (self._main, self._join):
            health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        self.port, self.join_port = self._listen(addresses)

    def _listen(self, addresses: Addresses) -> tuple[int, int]:
        if addresses.socket is not None:
            rpc.listen_unix(self._main, addresses.socket)
        port = join_port = 0
        if addresses.listen is not None:
            port = rpc.listen_tls(self._main, *addresses.listen, self._credentials)
        if addresses.join_listen is not None:
            join_port = rpc.listen_tls(self._join, *addresses.join_listen, self._stranger_credentials)
        return port, join_port

    async def start(self) -> None:
        """Serves from now on."""
        for server in self._servers():
            await server.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)

    async def keep_renewed(self) -> None:
        """Replaces the controller's certificate before it ends, until cancelled; open connections are not disturbed."""
        while True:
            due = tls.renewal_at(self._credentials.current.certificate_pem, self._rng.uniform(0.0, 1.0))
            await self._clock.sleep(max(1.0, due - self._clock.wall()))
            fresh = self._ca.issue_controller()
            self._credentials.replace(fresh)
            self._stranger_credentials.replace(fresh)
            self._agents.credentials = fresh

    async def stop(self) -> None:
        """Takes no more calls, and ends those under way after a moment."""
        await self._health.enter_graceful_shutdown()
        for server in self._servers():
            await server.stop(GRACE_S)
        await self._agents.close()

    def _servers(self) -> tuple[grpc.aio.Server, ...]:
        return self._main, self._join
