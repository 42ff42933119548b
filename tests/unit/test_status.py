"""Status in Kubernetes' words."""

from __future__ import annotations

from typing import Any

from controller.peers import mesh
from controller.status import STAND_IN, condition, pod_status, silenced
from controller.views import NodeView, PodView, view
from podwire.api.v1 import state_pb2 as state
from podwire.model.names import vtep_mac

Doc = dict[str, Any]
NOW, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"
POD = view(
    PodView,
    {
        "metadata": {"name": "p"},
        "spec": {"initContainers": [{"name": "i", "image": "x"}], "containers": [{"name": "c", "image": "x"}]},
    },
)


def status(report: state.PodReport, old: Doc | None = None, now: str = NOW) -> Doc:
    return pod_status(POD, old or {}, report, host_ips=["172.30.0.1"], now=now)


def conditions(of: Doc) -> dict[str, str]:
    return {each["type"]: each["status"] for each in of["conditions"]}


INIT_DONE = state.ContainerReport(name="i", phase=state.CONTAINER_PHASE_TERMINATED)
RUNNING = state.ContainerReport(name="c", phase=state.CONTAINER_PHASE_RUNNING, ready=True, started=True)


def test_exit_codes_and_restarts() -> None:
    """What a container did last is told with what it does now."""
    crashed = state.ContainerReport(
        name="c",
        phase=state.CONTAINER_PHASE_WAITING,
        reason="CrashLoopBackOff",
        restart_count=3,
        last=state.Termination(exit_code=137, signal=9, finished_unix_ms=1000),
    )
    made = status(state.PodReport(phase=state.POD_PHASE_RUNNING, containers=[crashed], init_containers=[INIT_DONE]))
    container = made["containerStatuses"][0]
    assert container["state"] == {"waiting": {"reason": "CrashLoopBackOff"}}
    assert container["lastState"]["terminated"] == {
        "exitCode": 137,
        "reason": "Error",
        "signal": 9,
        "finishedAt": "1970-01-01T00:00:01Z",
    }
    assert (container["restartCount"], container["ready"]) == (3, False)
    assert conditions(made)["Ready"] == "False"


def test_initialised_once_init_containers_succeeded() -> None:
    waiting = status(state.PodReport(phase=state.POD_PHASE_PENDING))
    assert conditions(waiting)["Initialized"] == "False"
    assert waiting["containerStatuses"][0]["state"] == {"waiting": {"reason": "ContainerCreating"}}
    done = status(state.PodReport(phase=state.POD_PHASE_RUNNING, containers=[RUNNING], init_containers=[INIT_DONE]))
    assert conditions(done) == dict.fromkeys(("PodScheduled", "Initialized", "ContainersReady", "Ready"), "True")


def test_the_same_report_is_the_same_status() -> None:
    """Time that passes is no change; a transition is."""
    report = state.PodReport(phase=state.POD_PHASE_RUNNING, containers=[RUNNING], init_containers=[INIT_DONE])
    first = status(report)
    assert status(report, first, LATER) == first
    quiet = silenced(first, LATER)
    ready = next(each for each in quiet["conditions"] if each["type"] == "Ready")
    assert (ready["status"], ready["lastTransitionTime"]) == ("False", LATER)
    assert conditions(status(report, quiet, LATER))["Ready"] == "True"


def test_a_completed_pod() -> None:
    ended = state.ContainerReport(name="c", phase=state.CONTAINER_PHASE_TERMINATED, reason="Completed")
    report = state.PodReport(phase=state.POD_PHASE_SUCCEEDED, containers=[ended], init_containers=[INIT_DONE])
    made = status(report)
    assert made["phase"] == "Succeeded"
    ready = next(each for each in made["conditions"] if each["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "PodCompleted")


def test_stand_ins_are_named() -> None:
    stand_in = state.ContainerReport(name="c", phase=state.CONTAINER_PHASE_RUNNING, kind=state.CONTAINER_KIND_STAND_IN)
    made = status(state.PodReport(phase=state.POD_PHASE_RUNNING, containers=[stand_in]))
    assert conditions(made)[STAND_IN] == "True"


def test_transition_times() -> None:
    first = condition([], "Ready", true=True, now=NOW)
    assert condition([first], "Ready", true=True, now=LATER, reason="x")["lastTransitionTime"] == NOW
    assert condition([first], "Ready", true=False, now=LATER)["lastTransitionTime"] == LATER


def test_the_mesh_holds_who_can_be_reached() -> None:
    """Sorted by name; a node without a range or an address is not in it yet."""

    def node(name: str, cidrs: list[str], address: str) -> NodeView:
        addresses = [{"type": "InternalIP", "address": address}] if address else []
        return view(
            NodeView, {"metadata": {"name": name}, "spec": {"podCIDRs": cidrs}, "status": {"addresses": addresses}}
        )

    nodes = [node("b", ["10.0.1.0/24"], "172.30.0.2"), node("a", ["10.0.0.0/24"], "172.30.0.1")]
    peers = mesh("demo", [*nodes, node("c", [], "172.30.0.3"), node("d", ["10.0.3.0/24"], "")])
    assert [(peer.node, peer.underlay_addresses[0], peer.vtep_mac) for peer in peers] == [
        ("a", "172.30.0.1", vtep_mac("demo", "a")),
        ("b", "172.30.0.2", vtep_mac("demo", "b")),
    ]
