"""`podwire status`: the cluster on one screen.

In: the controller's Status. Out: a table of nodes and what is weaker than asked; `-o json|yaml` gives the same as a document.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from podwire.cli import humanize, options
from podwire.cli.app import App, pass_app
from podwire.cli.output import Output, print_structured
from podwire.cli.tables import Table
from podwire.errors import PodwireError

if TYPE_CHECKING:
    from podwire.api.v1.control_pb2 import NodeStatus, StatusResponse
    from podwire.client import ControlClient


@click.command("status")
@options.output_option()
@pass_app
def command(app: App, *, output: Output) -> None:
    """Show nodes, agents, what they have applied, and what is degraded."""

    async def work(client: ControlClient) -> None:
        status = await client.status()
        states = await _driver_states(app)
        if output.tabular:
            show(app, status, states)
        else:
            print_structured(app.renderer, output, document(status, states))

    app.run(work)


def show(app: App, status: StatusResponse, states: dict[str, str] | None = None) -> None:
    """The screen."""
    states = states or {}
    stand_ins = f", {status.stand_ins} with stand-ins" if status.stand_ins else ""
    app.renderer.line(
        f"Cluster {status.cluster}: {sum(node.ready for node in status.nodes)}/{len(status.nodes)} nodes ready, "
        f"{status.pods_ready}/{status.pods} pods ready{stand_ins}, revision {status.revision}"
    )
    app.renderer.line("")
    titles = ("NODE", "STATUS", "AGENT", "REVISION", "UNDERLAY", "POD-CIDR", "PODS", "MTU", "PRIVILEGES", "ZONE")
    app.renderer.table(Table(titles, tuple(_row(node, states, app.now) for node in status.nodes)))
    if lacking := _lacking(status):
        app.renderer.line("")
        app.renderer.line("Kernels without:")
        for text in lacking:
            app.renderer.line(f"  {text}")
    degraded = [*status.degraded, *_degraded_nodes(status)]
    if degraded:
        app.renderer.line("")
        app.renderer.line("Degraded:")
        for text in degraded:
            app.renderer.line(f"  {text}")


def _lacking(status: StatusResponse) -> list[str]:
    """Per kernel that lacks something, one line."""
    return _by_node(status, lambda node: [", ".join(each.name for each in node.capabilities if not each.available)])


def _degraded_nodes(status: StatusResponse) -> list[str]:
    """One line per sentence."""
    return _by_node(status, lambda node: node.degraded)


def _by_node(status: StatusResponse, texts: Callable[[NodeStatus], Iterable[str]]) -> list[str]:
    """Each text once, with the nodes it is true of."""
    nodes: dict[str, list[str]] = {}
    for node in status.nodes:
        for text in filter(None, texts(node)):
            nodes.setdefault(text, []).append(node.name)
    return [
        f"{'all nodes' if len(of) == len(status.nodes) > 1 else ', '.join(of)}: {text}" for text, of in nodes.items()
    ]


def document(status: StatusResponse, states: dict[str, str] | None = None) -> dict[str, Any]:
    """The same as JSON."""
    states = states or {}
    return {
        "apiVersion": "podwire.dev/v1alpha1",
        "kind": "Status",
        "metadata": {"name": status.cluster},
        "version": status.version,
        "storeID": status.store_id,
        "epoch": status.epoch,
        "revision": status.revision,
        "pods": {"total": status.pods, "ready": status.pods_ready, "standIns": status.stand_ins},
        "degraded": list(status.degraded),
        "cluster": json.loads(status.cluster_document or b"null"),
        "nodes": [
            {
                "name": node.name,
                "ready": node.ready,
                "reason": node.reason,
                "connected": node.connected,
                "driverState": states.get(node.name, ""),
                "revisionApplied": node.revision_applied,
                "bootID": node.boot_id,
                "underlayAddresses": list(node.underlay_addresses),
                "podCIDRs": list(node.pod_cidrs),
                "podMTU": node.pod_mtu,
                "pods": node.pods,
                "privileges": node.privileges,
                "zone": node.zone,
                "capabilities": {
                    each.name: {"available": each.available, "detail": each.detail} for each in node.capabilities
                },
                "degraded": list(node.degraded),
                "lastSeenUnixMs": node.last_seen_unix_ms,
            }
            for node in status.nodes
        ],
    }


def _row(node: NodeStatus, states: dict[str, str], now: float) -> tuple[str, ...]:
    state = states.get(node.name, "running")
    word = "Ready" if node.ready else "NotReady"
    seen = humanize.duration(now - node.last_seen_unix_ms / 1000) + " ago" if node.last_seen_unix_ms else "never"
    return (
        node.name,
        word if state == "running" else f"{word} ({state})",
        "connected" if node.connected else f"last seen {seen}",
        str(node.revision_applied),
        humanize.commas(node.underlay_addresses),
        humanize.commas(node.pod_cidrs),
        str(node.pods),
        str(node.pod_mtu or ""),
        node.privileges,
        node.zone or "<none>",
    )


async def _driver_states(app: App) -> dict[str, str]:
    """What the driver says of the nodes (paused, stopped); nothing where it cannot be asked."""
    try:
        return {node.name: node.state for node in await app.driver().nodes()}
    except PodwireError:
        return {}
