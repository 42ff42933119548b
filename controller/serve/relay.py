"""What a user asks of a pod or a node, carried to the agent there and back.

In: requests that name pods. Out: the agents' answers. The pod's UID goes along, so that a namesake made meanwhile is not mistaken for
it. Probes are gathered by source, one call per node, all at once.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from controller.serve.agents import Agents
from controller.snapshot import Pod, Snapshot
from podwire import rpc
from podwire.api.v1 import control_pb2 as control
from podwire.api.v1 import node_agent_pb2 as agent
from podwire.errors import Conflict, InvalidInput, NotFound, PodwireError
from podwire.model.addresses import gateway_address

PROBE_MARGIN_S = 10.0
DEFAULT_PROBE_TIMEOUT_MS = 1000
MESH_KIND = agent.PROBE_KIND_ICMP


class Relay:
    """See the module's docstring."""

    def __init__(self, snapshot: Snapshot, agents: Agents) -> None:
        self._snapshot = snapshot
        self._agents = agents

    def _pod(self, namespace: str, name: str) -> Pod:
        """A pod that is on a node; raises NotFound, Conflict."""
        pod = self._snapshot.named_pod(namespace or "default", name)
        if pod is None:
            raise NotFound(f"pod {namespace or 'default'}/{name} does not exist")
        if not pod.node:
            raise Conflict(
                f"pod {namespace or 'default'}/{name} is not on a node yet", hint="podwire describe pod says why"
            )
        if pod.node not in self._snapshot.nodes:
            raise Conflict(
                f"pod {namespace or 'default'}/{name} waits for node {pod.node}, which does not exist",
                hint=f"make the node: podwire node add {pod.node}",
            )
        return pod

    def _check_container(self, pod: Pod, container: str) -> None:
        spec = pod.view.spec
        names = [each.name for each in (*spec.containers, *(spec.init_containers or ()))]
        if container and container not in names:
            raise NotFound(f"pod {'/'.join(pod.key)} has no container {container!r}; it has {', '.join(names)}")

    async def exec(
        self, requests: AsyncIterator[control.ControlServiceExecRequest]
    ) -> AsyncGenerator[agent.ExecResponse, None]:
        """Runs a command: the first request is the start, the last answer the exit."""
        messages = aiter(requests)
        first = (await anext(messages, control.ControlServiceExecRequest())).request
        if first.WhichOneof("message") != "start":
            raise InvalidInput("an exec must begin with its start", field="request")
        pod = self._pod(first.start.namespace, first.start.pod)
        self._check_container(pod, first.start.container)
        first.start.pod_uid = pod.uid
        first.start.namespace = pod.key[0]
        stub = await self._agents.stub(pod.node)

        async def upwards() -> AsyncIterator[agent.ExecRequest]:
            yield first
            async for message in messages:
                yield message.request

        with rpc.translated(f"exec in pod {first.start.pod}"):
            call = stub.Exec(upwards())
            try:
                async for answer in call:
                    yield answer
            finally:
                call.cancel()

    async def logs(self, request: agent.LogsRequest) -> AsyncGenerator[agent.LogsResponse, None]:
        """A container's output."""
        pod = self._pod(request.namespace, request.pod)
        self._check_container(pod, request.container)
        request.pod_uid = pod.uid
        request.namespace = pod.key[0]
        stub = await self._agents.stub(pod.node)
        async for answer in rpc.stream(stub.Logs, request, doing=f"logs of pod {request.pod}"):
            yield answer

    async def inspect(self, node: str) -> Sequence[agent.Fact]:
        """What a node's kernel holds."""
        stub = await self._agents.stub(node)
        answer = await rpc.call(stub.Inspect, agent.InspectRequest(), doing=f"inspect node {node}")
        return list(answer.facts)

    async def probe(self, request: control.ControlServiceProbeRequest) -> list[agent.ProbeResult]:
        """Sends all probes and returns a result for each, in the order asked."""
        timeout_ms = request.timeout_ms or DEFAULT_PROBE_TIMEOUT_MS
        targets: defaultdict[str, list[agent.ProbeTarget]] = defaultdict(list)
        order: list[str] = []
        for node, target in self._mesh() if request.node_mesh else self._pairs(request.pairs):
            target.timeout_ms = timeout_ms
            targets[node].append(target)
            order.append(target.id)
        answers = await asyncio.gather(*(self._probe_from(node, each, timeout_ms) for node, each in targets.items()))
        results = {result.id: result for answer in answers for result in answer}
        return [results.get(each) or agent.ProbeResult(id=each, error="no answer from the agent") for each in order]

    def _mesh(self) -> list[tuple[str, agent.ProbeTarget]]:
        """From every node to every other's gateway address, per family; ids read SOURCE/DESTINATION, and end in /6 for IPv6."""
        nodes = {name: node.view.spec.pod_cidrs for name, node in sorted(self._snapshot.nodes.items())}
        return [
            (
                source,
                agent.ProbeTarget(
                    id=f"{source}/{destination}" + ("/6" if ":" in cidr else ""),
                    address=str(gateway_address(ipaddress.ip_network(cidr))),
                    kind=MESH_KIND,
                ),
            )
            for source in nodes
            for destination, cidrs in nodes.items()
            if source != destination
            for cidr in cidrs
        ]

    def _pairs(self, pairs: Sequence[control.PairProbe]) -> list[tuple[str, agent.ProbeTarget]]:
        made = []
        for index, pair in enumerate(pairs):
            pod = self._pod(pair.namespace, pair.pod) if pair.pod else None
            if pod is None and pair.node not in self._snapshot.nodes:
                raise NotFound(f"pairs[{index}]: node {pair.node!r} does not exist")
            target = agent.ProbeTarget(
                id=pair.id or str(index),
                source_uid=pod.uid if pod else "",
                address=pair.address,
                port=pair.port,
                kind=pair.kind or MESH_KIND,
                payload=pair.payload,
                size=pair.size,
            )
            made.append((pod.node if pod else pair.node, target))
        return made

    async def _probe_from(
        self, node: str, targets: list[agent.ProbeTarget], timeout_ms: int
    ) -> Sequence[agent.ProbeResult]:
        """A node that cannot be asked fails its own probes only."""
        try:
            stub = await self._agents.stub(node)
            answer = await rpc.call(
                stub.Probe,
                agent.ProbeRequest(targets=targets),
                doing=f"probe from node {node}",
                deadline_s=timeout_ms / 1000 + PROBE_MARGIN_S,
            )
        except PodwireError as error:
            return [agent.ProbeResult(id=target.id, error=error.message) for target in targets]
        return list(answer.results)
