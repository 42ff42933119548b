"""Nodes with names and zones, on both drivers: pods find them by label, clusters grow and shrink, and a name can be used again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from podwire.drivers.local.facts import collect
from tests.cluster.commandline import CommandLine

pytestmark = pytest.mark.cluster

CLUSTER = """
apiVersion: podwire.dev/v1alpha1
kind: Cluster
metadata: {name: test-zones}
spec:
  nodes: [{name: a, zone: east}, {name: b, zone: west, labels: {disk: ssd}}]
"""
POD = """
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec: {nodeSelector: {%s}, containers: [{name: web, image: agnhost, args: [netexec]}]}
"""
SELECTED = {
    "east": "topology.kubernetes.io/zone: east",
    "west": "topology.kubernetes.io/zone: west",
    "fast": "disk: ssd",
    "named": "kubernetes.io/hostname: a",
}


@pytest.fixture(scope="module", params=["local", "docker"])
def command(
    request: pytest.FixtureRequest, own_state: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CommandLine]:
    """Two nodes that a document names."""
    if request.param == "docker":
        request.getfixturevalue("docker_engine")
    elif lacking := [f"{fact.name}: {fact.value}" for fact in collect() if not fact.ok]:
        pytest.skip(f"the local driver cannot work here: {lacking[0]}")
    document = tmp_path_factory.mktemp("zones") / "cluster.yaml"
    document.write_text(CLUSTER)
    made = CommandLine("test-zones")
    try:
        made.run("up", "--driver", request.param, "-f", os.fspath(document))
        yield made
    finally:
        made.run("down")


def places(command: CommandLine) -> dict[str, str]:
    """Pod → the node it runs on; empty while it has none."""
    return {pod["metadata"]["name"]: pod["spec"].get("nodeName", "") for pod in command.json("get", "pods")["items"]}


def nodes(command: CommandLine) -> list[str]:
    """The cluster's nodes, as the controller and the driver agree that they are."""
    listed = command.json("status")["nodes"]
    assert all(node["ready"] and node["driverState"] == "running" for node in listed)
    return [node["name"] for node in listed]


def test_pods_find_nodes_by_zone_label_and_name(command: CommandLine) -> None:
    manifests = "---".join(POD % item for item in SELECTED.items())
    command.run("apply", "--wait", "-f", "-", stdin=manifests)
    assert places(command) == {"east": "a", "west": "b", "fast": "b", "named": "a"}


def test_a_cluster_grows_and_shrinks_and_its_pods_stay(command: CommandLine) -> None:
    before = {pod["metadata"]["uid"]: pod["status"]["podIP"] for pod in command.json("get", "pods")["items"]}
    command.run("up", "--nodes", "4")
    assert nodes(command) == ["a", "b", "node-1", "node-2"]
    command.run("run", "away", "--image", "agnhost", "--node", "node-2", "--wait")
    assert "20 of 20 pairs" in command.run("test", "pingall").stdout
    command.run("up", "--nodes", "2")
    assert nodes(command) == ["a", "b"]
    command.run("wait", "pod/away", "--for=delete", "--timeout=10s")
    assert {pod["metadata"]["uid"]: pod["status"]["podIP"] for pod in command.json("get", "pods")["items"]} == before


def test_a_name_can_be_used_again_and_pods_wait_for_its_zone(command: CommandLine) -> None:
    """The pods of a node end with it; the new one has nothing of the old."""
    identity = command.json("get", "node", "b")["metadata"]["uid"]
    command.run("node", "delete", "b")
    assert places(command) == {"east": "a", "named": "a"}
    command.run("apply", "-f", "-", stdin=POD % ("west", SELECTED["west"]))
    command.says("describe", "pod", "west", words=("FailedScheduling", "0/1 nodes are available"))
    command.run("node", "add", "b", "--zone", "west")
    command.run("wait", "pod/west", "--for=condition=Ready", "--timeout=10s")
    node = command.json("get", "node", "b")["metadata"]
    assert node["uid"] != identity
    assert "disk" not in node["labels"]
    assert places(command)["west"] == "b"
    assert "6 of 6 pairs" in command.run("test", "pingall", "--tcp", "8080").stdout
