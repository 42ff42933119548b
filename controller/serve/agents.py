"""Calls to agents, on a user's behalf: exec, logs, probes, inspection.

In: a node's name. Out: a stub of its NodeAgentService, over mTLS with the controller's certificate, at the address its agent announced.
Channels are kept per node and made anew when the address or our certificate changes.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from controller.config import AGENT_PORT
from controller.sessions import Hub
from podwire import rpc
from podwire.api.v1 import node_agent_pb2_grpc
from podwire.errors import NotFound, Unavailable
from podwire.identity import Credentials, node_host


@dataclass(frozen=True, slots=True)
class _Line:
    host: str
    port: int
    credentials: Credentials
    channel: grpc.aio.Channel


class Agents:
    """See the module's docstring."""

    def __init__(self, hub: Hub, credentials: Credentials) -> None:
        self._hub = hub
        self.credentials = credentials
        self._lines: dict[str, _Line] = {}

    async def stub(self, node: str) -> node_agent_pb2_grpc.NodeAgentServiceAsyncStub:
        """The node's service.

        Raises:
            NotFound: there is no such node.
            Unavailable: its agent is not connected, so it is not known where it listens.
        """
        if node not in self._hub.snapshot.nodes:
            raise NotFound(f"node {node} does not exist")
        agent = self._hub.agents.get(node)
        if agent is None or not agent.connected or not agent.underlay_addresses:
            raise Unavailable(f"the agent of node {node} is not connected", hint=f"podwire node restart {node}")
        host, port = agent.underlay_addresses[0], agent.agent_port or AGENT_PORT
        line = self._lines.get(node)
        if line is None or (line.host, line.port) != (host, port) or line.credentials is not self.credentials:
            if line is not None:
                await line.channel.close(None)
            channel = rpc.channel(host, port, self.credentials, node_host(node))
            line = self._lines[node] = _Line(host, port, self.credentials, channel)
        return node_agent_pb2_grpc.NodeAgentServiceStub(line.channel)

    async def close(self) -> None:
        """Hangs up."""
        lines, self._lines = self._lines, {}
        for line in lines.values():
            await line.channel.close(None)
