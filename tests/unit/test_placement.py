"""Which node a pod goes to."""

from __future__ import annotations

from typing import Any

import pytest

from controller.placement import Candidate, Unplaced, place
from controller.views import PodSpec, view


def spec(**fields: Any) -> PodSpec:
    return view(PodSpec, {"containers": [{"name": "c", "image": "i"}], **fields})


def node(
    name: str, pods: int = 0, *, ready: bool = True, schedulable: bool = True, room: bool = True, **labels: str
) -> Candidate:
    return Candidate(name, labels, ready, schedulable, pods, room)


def affinity(*expressions: dict[str, Any]) -> dict[str, Any]:
    required = {"nodeSelectorTerms": [{"matchExpressions": list(expressions)}]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}


NODES = [node("a", 1, zone="z1", cpus="4"), node("b", 0, zone="z2", cpus="8"), node("c", 0, zone="z2")]

CASES: list[tuple[str, dict[str, Any], str]] = [
    ("fewest pods, then name", {}, "b"),
    ("selector", {"nodeSelector": {"zone": "z1"}}, "a"),
    ("in", affinity({"key": "zone", "operator": "In", "values": ["z1"]}), "a"),
    ("not in", affinity({"key": "zone", "operator": "NotIn", "values": ["z2"]}), "a"),
    ("does not exist", affinity({"key": "cpus", "operator": "DoesNotExist"}), "c"),
    ("greater", affinity({"key": "cpus", "operator": "Gt", "values": ["4"]}), "b"),
    ("less", affinity({"key": "cpus", "operator": "Lt", "values": ["8"]}), "a"),
    ("all of a term", affinity({"key": "zone", "operator": "Exists"}, {"key": "cpus", "operator": "Exists"}), "b"),
]


@pytest.mark.parametrize(("fields", "wanted"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_places(fields: dict[str, Any], wanted: str) -> None:
    assert place(spec(**fields), NODES) == wanted


def test_says_why_not() -> None:
    """Every node's reason is counted."""
    nodes = [node("a", ready=False), node("b", schedulable=False), node("c"), node("d", room=False, disk="ssd")]
    why = place(spec(nodeSelector={"disk": "ssd"}), nodes)
    assert why == Unplaced(
        "0/4 nodes are available: 1 didn't match the pod's node selector, 1 had no free pod address, "
        "1 were not ready, 1 were unschedulable",
        exhausted=True,
    )


def test_no_nodes() -> None:
    assert place(spec(), []) == Unplaced("0/0 nodes are available")


def test_spreads() -> None:
    """Ten pods over three nodes differ by at most one."""
    pods = {"a": 0, "b": 0, "c": 0}
    for _ in range(10):
        chosen = place(spec(), [node(name, count) for name, count in pods.items()])
        assert isinstance(chosen, str)
        pods[chosen] += 1
    assert sorted(pods.values()) == [3, 3, 4]
