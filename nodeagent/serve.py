"""NodeAgentService: what the controller asks of a node on a user's behalf.

In: calls that the gate has let through (the controller's certificate only). Out: streams of output, probes' results, facts. Everything is
delegated: commands to `pods.exec`, logs to `pods.logs`, probes to `probing`; here is only translation.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
from collections.abc import AsyncIterator
from typing import Any

from nodeagent.agent import NodeAgent
from nodeagent.desired import Assembler
from nodeagent.inspect import facts
from nodeagent.pods.exec import DEFAULT_SIZE, ExecRunner, ExecSession
from nodeagent.pods.lifecycle import PodLifecycles
from nodeagent.pods.logs import LogQuery, read_log
from nodeagent.probing import Prober, Source
from nodeagent.slots import Slots
from podwire.api.v1 import node_agent_pb2 as api
from podwire.api.v1 import node_agent_pb2_grpc as api_grpc
from podwire.errors import InvalidInput, KernelError
from podwire.model.addresses import gateway_address
from podwire.seams import Clock

FRESH_S = 15.0  # a sync older than this (three readings) means not ready
MAX_TARGETS = 10_000
NO_SUCH_COMMAND, CANNOT_RUN = 127, 126  # the exit codes a shell gives


class NodeAgentServicer(api_grpc.NodeAgentServiceServicer):
    """See the module's docstring."""

    def __init__(
        self,
        *,
        agent: NodeAgent,
        assembler: Assembler,
        slots: Slots,
        lives: PodLifecycles,
        commands: ExecRunner,
        prober: Prober,
        clock: Clock,
    ) -> None:
        self._agent = agent
        self._assembler = assembler
        self._slots = slots
        self._lives = lives
        self._commands = commands
        self._prober = prober
        self._clock = clock

    async def Exec(
        self, request_iterator: AsyncIterator[api.ExecRequest], context: Any
    ) -> AsyncIterator[api.ExecResponse]:
        """Runs one command; the caller's going away kills it."""
        first = await anext(request_iterator, None)
        if first is None or not first.HasField("start"):
            raise InvalidInput("exec: the first message must say what to run", field="start")
        start = first.start
        size = (start.size.rows, start.size.columns) if start.size.rows and start.size.columns else DEFAULT_SIZE
        try:
            run = self._lives.container_run(start.pod_uid, start.container)
            session = await self._commands.start(run, list(start.argv), stdin=start.stdin, tty=start.tty, size=size)
        except KernelError as error:
            code = NO_SUCH_COMMAND if error.errno == errno.ENOENT else CANNOT_RUN
            yield api.ExecResponse(exit=api.ExecExit(code=code, error=error.message))
            return
        async with session:
            typing = asyncio.ensure_future(_type(session, request_iterator))
            try:
                async for piece in session.output():
                    said = piece.data
                    yield api.ExecResponse(stdout=said) if piece.stream == "stdout" else api.ExecResponse(stderr=said)
                yield api.ExecResponse(exit=api.ExecExit(code=await session.wait()))
            finally:
                typing.cancel()
                await asyncio.gather(typing, return_exceptions=True)

    async def Logs(self, request: api.LogsRequest, context: Any) -> AsyncIterator[api.LogsResponse]:
        """Output of a container, as its life knows it."""
        query = LogQuery(
            tail_lines=request.tail_lines if request.tail_lines >= 0 else None,
            follow=request.follow,
            timestamps=request.timestamps,
        )
        source = self._lives.log_source(request.pod_uid, request.container, previous=request.previous)
        async for data in read_log(source, query, clock=self._clock):
            yield api.LogsResponse(data=data)

    async def Health(self, request: api.HealthRequest, context: Any) -> api.HealthResponse:
        """Live is that this answers; ready is that the kernel agreed with the plan not long ago."""
        age = self._clock.monotonic() - self._agent.applied_at
        return api.HealthResponse(
            live=True,
            ready=age < FRESH_S,
            revision=self._assembler.desired.revision,
            last_sync_age_s=age,
            degraded=self._agent.errors,
        )

    async def Inspect(self, request: api.InspectRequest, context: Any) -> api.InspectResponse:
        """What the last reading found; an agent that has just started takes its first one first."""
        await self._agent.turned.wait()
        reading = self._agent.reading
        return api.InspectResponse(facts=facts(reading, self._slots.owners) if reading else [])

    async def Probe(self, request: api.ProbeRequest, context: Any) -> api.ProbeResponse:
        """Sends the probes, all at once."""
        if len(request.targets) > MAX_TARGETS:
            raise InvalidInput(
                f"targets: {len(request.targets)} probes in one call; send at most {MAX_TARGETS}", field="targets"
            )
        targets = [(self._source(target.source_uid), target) for target in request.targets]
        return api.ProbeResponse(results=await self._prober.probe(targets))

    def _source(self, uid: str) -> Source | None:
        if not uid:
            cidrs = [ipaddress.ip_network(cidr) for cidr in self._assembler.desired.node.pod_cidrs]
            return Source("", tuple(gateway_address(cidr) for cidr in cidrs))
        sandbox = self._agent.sandbox_of(uid)
        return Source(sandbox.pin) if sandbox is not None else None


async def _type(session: ExecSession, requests: AsyncIterator[api.ExecRequest]) -> None:
    """What the user types, until they stop."""
    async for request in requests:
        match request.WhichOneof("message"):
            case "stdin":
                await session.write(request.stdin)
            case "stdin_closed":
                await session.close_stdin()
            case "resize":
                session.resize(request.resize.rows, request.resize.columns)
