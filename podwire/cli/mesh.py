"""Waiting for the cluster as a whole: every node ready, and a probe across every pair of nodes.

In: a client, the nodes' names. Out: a return when both hold, or an error that names the node or the pair that fails. `up`, `node add` and
`node restart` end here: what they promise is a network that carries packets, not processes that have started.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from podwire.errors import PodwireError, Unavailable

if TYPE_CHECKING:
    from podwire.api.v1.control_pb2 import NodeStatus
    from podwire.client import ControlClient
    from podwire.seams import Clock

POLL_S, LONGEST_POLL_S = 0.01, 0.1
PROBE_TIMEOUT_S = 1.0
NODES_SHOWN = 3


async def await_nodes(
    client: ControlClient,
    names: Collection[str],
    clock: Clock,
    deadline: float,
    *,
    former_boots: Mapping[str, str] | None = None,
) -> None:
    """Returns when each of these nodes is ready, after another boot than the former one where that is given; raises PodwireError that
    says which are not, and why.
    """
    pause = POLL_S
    while True:
        try:
            status = await client.status()
            states = {node.name: node for node in status.nodes}
            reasons = {
                name: why
                for name in sorted(names)
                if (why := _why_late(states.get(name), (former_boots or {}).get(name)))
            }
            if not reasons:
                return
        except Unavailable:
            if clock.monotonic() >= deadline:
                raise
            reasons = {}
        if clock.monotonic() >= deadline:
            shown = ", ".join(f"{name} ({why})" for name, why in list(reasons.items())[:NODES_SHOWN])
            raise PodwireError(f"not all nodes got ready in time: {shown}", hint="see: podwire status, podwire doctor")
        await clock.sleep(pause)
        pause = min(pause * 1.1, LONGEST_POLL_S)


def _why_late(node: NodeStatus | None, former_boot: str | None) -> str:
    """What keeps a node from being ready; empty when nothing does."""
    if node is None:
        return "has not joined"
    if node.boot_id == former_boot:
        return "has not started again"
    return "" if node.ready else node.reason or "not ready"


async def await_mesh(client: ControlClient, clock: Clock, deadline: float) -> int:
    """Returns the number of node pairs once a probe has crossed all of them in one round; raises PodwireError that names one that failed."""
    while True:
        results = await client.probe(node_mesh=True, timeout_s=PROBE_TIMEOUT_S)
        failed = [result for result in results if not result.ok]
        if not failed:
            return len(results)
        if clock.monotonic() >= deadline:
            raise PodwireError(
                f"{len(failed)} of {len(results)} node pairs do not reach each other, first {failed[0].id}: {failed[0].error}",
                hint="see: podwire status",
            )
        await clock.sleep(POLL_S)


async def await_network(
    client: ControlClient,
    names: Collection[str],
    clock: Clock,
    timeout_s: float,
    *,
    former_boots: Mapping[str, str] | None = None,
) -> int:
    """Both, one after the other, within one time."""
    deadline = clock.monotonic() + timeout_s
    async with asyncio.timeout(timeout_s + PROBE_TIMEOUT_S + 15.0):
        await await_nodes(client, names, clock, deadline, former_boots=former_boots)
        return await await_mesh(client, clock, deadline)
