"""`podwire test`: is it a network? Every pod to every pod, and the Kubernetes network model as checks.

In: a running cluster. Out: a matrix or a line per check, and exit code 1 when one says no. `network` brings pods of its own, in a
namespace of its own, and removes them whatever happens.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click

from podwire.cli import options
from podwire.cli.app import App, pass_app
from podwire.cli.output import Output, print_structured
from podwire.cli.selection import Target
from podwire.cli.tables import Table
from podwire.errors import NotFound, PodwireError
from podwire.model.kinds import kind_named

if TYPE_CHECKING:
    from podwire.api.v1.control_pb2 import PairProbe
    from podwire.api.v1.node_agent_pb2 import ProbeResult
    from podwire.cli.netchecks import ProbedNode, ProbedPod, Verdict
    from podwire.cli.pingall import Outcome
    from podwire.client import ControlClient

BATCH = 2000  # probes in one call
NODES_TESTED = 3
REPORT_TIMEOUT_S = 15.0
POLL_S = 0.05


@click.group("test")
def command() -> None:
    """Test the network: pingall, network."""


@command.command("pingall")
@click.option(
    "-n",
    "--namespace",
    default="",
    shell_complete=options.complete_namespaces,
    help="Only pods of this namespace. [default: all]",
)
@options.selector_option
@click.option(
    "--tcp", "port", type=click.IntRange(1, 65535), metavar="PORT", help="Connect to this port instead of pinging."
)
@options.timeout_option("2s", "How long one probe may take.")
@options.output_option()
@pass_app
def pingall(app: App, *, namespace: str, selector: str, port: int | None, timeout: str, output: Output) -> int:
    """Every pod to every pod, over each address family; exit code 1 if one does not get through."""
    timeout_s = options.seconds(timeout)

    async def work(client: ControlClient) -> int:
        from podwire.cli.pingall import Outcome, addresses, crossings, probe

        listed = await client.list("pods", namespace=namespace, label_selector=selector)
        pods = [pod for pod in listed.documents if addresses(pod)]
        if len(pods) < 2:
            raise NotFound("there are not two running pods to try", hint="make some: podwire run a -- sleep 1000")
        tried = crossings(pods)
        results = await _probe(client, [probe(pods, each, port) for each in tried if each.address], timeout_s)
        outcome = Outcome(pods, tried, results)
        _show_pingall(app, output, outcome)
        return 0 if outcome.ok else 1

    return app.run(work)


@command.command("network")
@options.timeout_option("60s", "How long the pods of the test may take to get ready.")
@click.option("--keep", is_flag=True, help="Leave the pods of the test, to look at a failure.")
@options.output_option()
@pass_app
def network(app: App, *, timeout: str, keep: bool, output: Output) -> int:
    """The Kubernetes network model as checks; exit code 1 if one fails."""
    timeout_s = options.seconds(timeout)

    async def work(client: ControlClient) -> int:
        from podwire.seams import SystemRng

        namespace = f"podwire-test-{SystemRng().name_suffix(5)}"
        async with _test_namespace(app, client, namespace, keep=keep):
            verdicts = await _verdicts(app, client, namespace, timeout_s)
        _show_verdicts(app, output, verdicts)
        return 0 if all(verdict.ok for verdict in verdicts) else 1

    return app.run(work)


async def _probe(client: ControlClient, probes: Sequence[PairProbe], timeout_s: float) -> dict[str, ProbeResult]:
    results: dict[str, ProbeResult] = {}
    for start in range(0, len(probes), BATCH):
        answers = await client.probe(probes[start : start + BATCH], timeout_s=timeout_s)
        results |= {answer.id: answer for answer in answers}
    return results


def _show_pingall(app: App, output: Output, outcome: Outcome) -> None:
    if not output.tabular:
        print_structured(app.renderer, output, outcome.document())
        return
    table = outcome.table()
    if table is not None:
        app.renderer.table(table)
        app.renderer.line("")
    else:
        for failure in outcome.failures():
            app.renderer.line(failure)
    app.renderer.line(outcome.sentence())


# --- network ------------------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _test_namespace(app: App, client: ControlClient, namespace: str, *, keep: bool) -> AsyncIterator[None]:
    await client.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    try:
        yield
    finally:
        if keep:
            app.renderer.note(f"The pods of the test stay in namespace {namespace}.")
        else:
            with app.renderer.stage("Removing the pods of the test"):
                await _remove(client, namespace)


async def _remove(client: ControlClient, namespace: str) -> None:
    from podwire.cli.waiting import parse_wish, wait_for

    for pod in (await client.list("pods", namespace=namespace)).documents:
        await client.delete("pods", pod["metadata"]["name"], namespace=namespace, grace_s=0)
    await client.delete("namespaces", namespace)
    target = Target(kind_named("namespace"), namespace)
    await wait_for(client, [target], parse_wish("delete"), namespace="", timeout_s=30.0)


async def _verdicts(app: App, client: ControlClient, namespace: str, timeout_s: float) -> list[Verdict]:
    from podwire.cli.netchecks import checks, judge, unique_addresses

    places = [node.name for node in (await client.status()).nodes if node.ready][:NODES_TESTED]
    if not places:
        raise PodwireError("no node is ready", hint="see: podwire status")
    with app.renderer.stage(f"Starting {len(places) + 1} pods on {len(places)} nodes"):
        pods = await _start_pods(client, namespace, [places[0], *places], timeout_s)
        nodes = await _nodes(app, client, places)
    planned = checks(namespace, pods, nodes)
    probes = [case.probe for check in planned for case in check.cases]
    with app.renderer.stage(f"Sending {len(probes)} probes"):
        results = await _probe(client, probes, 2.0)
    everything = (await client.list("pods")).documents
    return [unique_addresses(everything, nodes), *(judge(check, results) for check in planned)]


async def _nodes(app: App, client: ControlClient, names: Sequence[str]) -> list[ProbedNode]:
    """These nodes, once their agents have reported the pod MTU."""
    from podwire.cli.netchecks import ProbedNode

    deadline = app.clock.monotonic() + REPORT_TIMEOUT_S
    while True:
        nodes = [node for node in (await client.status()).nodes if node.name in names]
        silent = [node.name for node in nodes if not node.pod_mtu]
        if not silent:
            return [
                ProbedNode(node.name, tuple(node.underlay_addresses), tuple(node.pod_cidrs), node.pod_mtu)
                for node in nodes
            ]
        if app.clock.monotonic() >= deadline:
            raise PodwireError(f"node {silent[0]} does not report its pod MTU", hint="see: podwire status")
        await app.clock.sleep(POLL_S)


async def _start_pods(
    client: ControlClient, namespace: str, places: Sequence[str], timeout_s: float
) -> list[ProbedPod]:
    """A pod at each place; two containers in each, so that localhost can be tried."""
    from podwire.cli.netchecks import HTTP_PORT, IMAGE, SECOND_PORT, UDP_PORT, ProbedPod
    from podwire.cli.waiting import parse_wish, wait_for

    containers = [
        {
            "name": "first",
            "image": IMAGE,
            "args": ["netexec", f"--http-port={HTTP_PORT}", f"--udp-port={UDP_PORT}"],
            "readinessProbe": {"httpGet": {"path": "/hostname", "port": HTTP_PORT}, "periodSeconds": 1},
        },
        {"name": "second", "image": IMAGE, "args": ["netexec", f"--http-port={SECOND_PORT}", "--udp-port=-1"]},
    ]
    names = [f"net-{number}" for number in range(1, len(places) + 1)]
    documents = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"nodeName": node, "containers": containers, "terminationGracePeriodSeconds": 0},
        }
        for name, node in zip(names, places, strict=True)
    ]
    await client.apply(documents)
    targets = [Target(kind_named("pod"), name) for name in names]
    await wait_for(client, targets, parse_wish("condition=Ready"), namespace=namespace, timeout_s=timeout_s)
    found = {pod["metadata"]["name"]: pod for pod in (await client.list("pods", namespace=namespace)).documents}
    return [
        ProbedPod(name, node, tuple(one["ip"] for one in found[name]["status"]["podIPs"]))
        for name, node in zip(names, places, strict=True)
    ]


def _show_verdicts(app: App, output: Output, verdicts: Sequence[Verdict]) -> None:
    failed = sum(not verdict.ok for verdict in verdicts)
    if not output.tabular:
        rows = [{"check": verdict.name, "ok": verdict.ok, "detail": verdict.detail} for verdict in verdicts]
        print_structured(app.renderer, output, {"kind": "NetworkTest", "ok": not failed, "checks": rows})
        return
    cells = tuple(("pass" if verdict.ok else "FAIL", verdict.name, verdict.detail) for verdict in verdicts)
    app.renderer.table(Table(("VERDICT", "CHECK", "DETAIL"), cells))
    app.renderer.line("")
    app.renderer.line(f"{len(verdicts) - failed} of {len(verdicts)} checks pass.")
