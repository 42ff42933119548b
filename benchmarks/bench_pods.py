"""How fast pods come and go: from one `apply` of N pods until the last is Ready, and from one `delete` until the last is gone.

In: how many pods, nodes and rounds. Out: a table and `results/pods.json`: pods per second through the whole product (API, store, plan, stream,
agents, sandboxes, wiring, containers, status, watch) beside the hand-packed floor of `floor.py`, which runs in the same rounds on the same
machine, and the ratio of both. All nodes of a local cluster share the processors with the controller and with this client.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measuring import CLOCK, CLUSTER, ROOT, keep, median, parser_for, podwire, removed, show, spread
from podwire.client import ControlClient, connect
from podwire.drivers.local.driver import LocalDriver
from podwire.model.cluster import API_VERSION

IMAGES: dict[str, dict[str, Any]] = {
    "pause": {"image": "pause:3.10"},
    "agnhost": {"image": "agnhost:2.53", "args": ["netexec", "--http-port=8080"]},
}
GOAL = 0.5  # of the floor
GOAL_DELETION = 0.5  # of the time that creation took
NODE_MASK = 21  # 2,046 addresses a node: those of the round before rest
DEADLINE_S = 120.0


def cluster_document(nodes: int, name: str) -> dict[str, Any]:
    """A Cluster whose nodes have room for every round."""
    spec = {"nodes": nodes, "nodeCIDRMask": NODE_MASK}
    return {"apiVersion": API_VERSION, "kind": "Cluster", "metadata": {"name": name}, "spec": spec}


def manifests(namespace: str, pods: int, image: str) -> list[dict[str, Any]]:
    """A namespace and its pods; the scheduler spreads them."""
    documents: list[dict[str, Any]] = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}]
    for number in range(pods):
        metadata = {"name": f"pod-{number}", "namespace": namespace, "labels": {"app": "bench"}}
        container = {"name": "main", **IMAGES[image]}
        documents.append({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}})
    return documents


async def create(client: ControlClient, namespace: str, pods: int, image: str) -> float:
    """Seconds from apply until every pod was seen Ready."""
    documents = manifests(namespace, pods, image)
    revision = (await client.list("pods", namespace=namespace)).revision
    began = CLOCK.monotonic()
    await client.apply(documents)
    ready: set[str] = set()
    async for event in client.watch("pods", namespace=namespace, revision=revision):
        conditions = event.document.get("status", {}).get("conditions", ())
        if any(each["type"] == "Ready" and each["status"] == "True" for each in conditions):
            ready.add(event.document["metadata"]["name"])
            if len(ready) == pods:
                break
    return CLOCK.monotonic() - began


async def delete(client: ControlClient, namespace: str, pods: int) -> float:
    """Seconds from the deletion of the namespace until every pod was seen gone."""
    revision = (await client.list("pods", namespace=namespace)).revision
    began = CLOCK.monotonic()
    deletion = asyncio.ensure_future(client.delete("namespaces", namespace))
    gone = 0
    async for event in client.watch("pods", namespace=namespace, revision=revision):
        gone += event.type == "DELETED"
        if gone == pods:
            break
    await deletion
    return CLOCK.monotonic() - began


def floor(pods: int) -> float:
    """Pods per second of the hand-packed floor, in a process of its own."""
    command = [sys.executable, str(ROOT / "benchmarks" / "floor.py"), "--pods", str(pods)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["pods_per_s"])


async def measure(cluster: str, pods: int, rounds: int, image: str) -> list[dict[str, float]]:
    """Floor, creation, deletion; again and again."""
    endpoint = await LocalDriver(cluster).endpoint()
    results = []
    async with connect(socket=endpoint.socket) as client, asyncio.timeout(DEADLINE_S * rounds):
        for number in range(rounds + 1):
            floor_rate = floor(pods)
            creation = await create(client, f"bench-{number}", pods, image)
            deletion = await delete(client, f"bench-{number}", pods)
            if number:  # the first round warms caches and allocators up
                results.append({"floor": floor_rate, "creation_s": creation, "deletion_s": deletion})
    return results


def main() -> None:
    parser = parser_for(__doc__, rounds=5)
    parser.add_argument("--pods", type=int, default=200)
    parser.add_argument("--image", choices=sorted(IMAGES), default="pause")
    values = parser.parse_args()
    cluster = f"{CLUSTER}-pods"
    with removed(cluster):
        document = json.dumps(cluster_document(values.nodes, cluster))
        podwire("up", "--driver", "local", "-f", "-", cluster=cluster, stdin=document)
        rounds = asyncio.run(measure(cluster, values.pods, values.rounds, values.image))
    floors = [one["floor"] for one in rounds]
    rates = [values.pods / one["creation_s"] for one in rounds]
    ratios = [rate / one for rate, one in zip(rates, floors, strict=True)]
    shares = [one["deletion_s"] / one["creation_s"] for one in rounds]
    print(
        f"{values.pods} pods ({values.image}) on {values.nodes} nodes, {values.rounds} rounds: median [lowest..highest]\n"
    )
    rows = [
        ("hand-packed floor, pods/s", spread(floors, 0), ""),
        ("apply to all Ready, pods/s", spread(rates, 0), ""),
        ("  ratio to the floor", spread(ratios), f"{GOAL} ({'met' if median(ratios) >= GOAL else 'missed'})"),
        ("delete to all gone, pods/s", spread([values.pods / one["deletion_s"] for one in rounds], 0), ""),
        (
            "  time, of creation's",
            spread(shares),
            f"{GOAL_DELETION} ({'met' if median(shares) <= GOAL_DELETION else 'missed'})",
        ),
    ]
    show(("", "measured", "goal"), rows)
    summary = {
        "floor_pods_per_s": round(median(floors), 1),
        "pods_per_s": round(median(rates), 1),
        "ratio": round(median(ratios), 3),
        "deletion_of_creation": round(median(shares), 3),
    }
    setting = {"pods": values.pods, "nodes": values.nodes, "image": values.image}
    print(f"\nwritten to {keep(values.results, 'pods', {**setting, **summary, 'rounds': rounds})}")


if __name__ == "__main__":
    main()
