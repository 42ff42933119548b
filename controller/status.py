"""Status: what agents report, in Kubernetes' words.

In: the object as stored, the agent's report, and the time as RFC 3339. Out: a new `status` dict, equal to the old one when nothing
changed (so that nothing is written). Pure.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from controller.views import Container, PodView
from podwire.api.v1 import state_pb2 as state

Doc = dict[str, Any]

STAND_IN = "podwire.dev/StandIn"
PHASES = {
    state.POD_PHASE_PENDING: "Pending",
    state.POD_PHASE_RUNNING: "Running",
    state.POD_PHASE_SUCCEEDED: "Succeeded",
    state.POD_PHASE_FAILED: "Failed",
}

_MACHINE = os.uname()  # controller and nodes share a kernel
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# Every field that Kubernetes requires, so that its clients can read a node; empty where a network twin has nothing to say.
NODE_INFO = {
    "architecture": _ARCHITECTURES.get(_MACHINE.machine, _MACHINE.machine),
    "bootID": "",
    "containerRuntimeVersion": "podwire://",
    "kernelVersion": _MACHINE.release,
    "kubeProxyVersion": "",
    "kubeletVersion": "",
    "machineID": "",
    "operatingSystem": "linux",
    "osImage": "podwire",
    "systemUUID": "",
}


def rfc3339(seconds: float) -> str:
    """A time as metav1.Time has it."""
    return _rfc3339(int(seconds))


@lru_cache(maxsize=64)  # most of what is written in a second happened in that second
def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(
    conditions: Iterable[Mapping[str, Any]], kind: str, *, true: bool, now: str, reason: str = "", message: str = ""
) -> Doc:
    """A condition; its transition time stays while its status does."""
    status = "True" if true else "False"
    before = next((each for each in conditions if each.get("type") == kind), None)
    since = before.get("lastTransitionTime") if before and before.get("status") == status else None
    made: Doc = {"type": kind, "status": status, "lastTransitionTime": since or now}
    if reason:
        made["reason"] = reason
    if message:
        made["message"] = message
    return made


def with_conditions(status: Mapping[str, Any], changed: Sequence[Mapping[str, Any]]) -> list[Doc]:
    """The conditions of a status with some replaced, each in its place."""
    fresh = {each["type"]: dict(each) for each in changed}
    kept = [fresh.pop(each["type"], dict(each)) for each in status.get("conditions", ())]
    return [*kept, *fresh.values()]


def unscheduled(status: Mapping[str, Any], message: str, now: str) -> Doc:
    """The status of a pod that no node can take."""
    scheduled = condition(
        status.get("conditions", ()), "PodScheduled", true=False, now=now, reason="Unschedulable", message=message
    )
    return {**status, "phase": "Pending", "conditions": with_conditions(status, [scheduled])}


def scheduled(status: Mapping[str, Any], now: str) -> Doc:
    """The status of a pod that was given a node and addresses."""
    fresh = condition(status.get("conditions", ()), "PodScheduled", true=True, now=now)
    return {**status, "phase": status.get("phase", "Pending"), "conditions": with_conditions(status, [fresh])}


def pod_status(
    pod: PodView, old: Mapping[str, Any], report: state.PodReport, *, host_ips: Sequence[str], now: str
) -> Doc:
    """A pod's status from its agent's report."""
    conditions = old.get("conditions", ())
    containers, inits = _by_name(report.containers), _by_name(report.init_containers)
    initialised = all(
        name in inits and inits[name].phase == state.CONTAINER_PHASE_TERMINATED and inits[name].exit_code == 0
        for name in (container.name for container in pod.spec.init_containers or ())
    )
    unready = [
        each.name for each in pod.spec.containers if each.name not in containers or not containers[each.name].ready
    ]
    completed = report.phase == state.POD_PHASE_SUCCEEDED
    reason = "PodCompleted" if completed else "ContainersNotReady" if unready else ""
    message = f"containers with unready status: [{' '.join(unready)}]" if unready and not completed else ""
    fresh = [
        condition(conditions, "PodScheduled", true=True, now=now),
        condition(conditions, "Initialized", true=initialised or completed, now=now),
        condition(conditions, "ContainersReady", true=not unready, now=now, reason=reason, message=message),
        condition(conditions, "Ready", true=not unready, now=now, reason=reason, message=message),
    ]
    stand_ins = [each.name for each in report.containers if each.kind == state.CONTAINER_KIND_STAND_IN]
    if stand_ins:
        what = f"stand-ins answer on the declared ports of: {', '.join(stand_ins)}"
        fresh.append(condition(conditions, STAND_IN, true=True, now=now, reason="ImageNotBuiltIn", message=what))
    status: Doc = {
        "phase": PHASES.get(report.phase, "Pending"),
        "conditions": with_conditions(old, fresh),
        "qosClass": old.get("qosClass", "BestEffort"),
    }
    if host_ips:
        status |= {"hostIP": host_ips[0], "hostIPs": [{"ip": ip} for ip in host_ips]}
    if report.addresses:
        status |= {"podIP": report.addresses[0], "podIPs": [{"ip": ip} for ip in report.addresses]}
    if report.started_unix_ms:
        status["startTime"] = rfc3339(report.started_unix_ms / 1000)
    elif "startTime" in old:
        status["startTime"] = old["startTime"]
    if report.reason:
        status["reason"] = report.reason
    if report.message:
        status["message"] = report.message
    if pod.spec.init_containers:
        status["initContainerStatuses"] = _statuses(pod.spec.init_containers, inits)
    status["containerStatuses"] = _statuses(pod.spec.containers, containers)
    return status


def silenced(status: Mapping[str, Any], now: str) -> Doc:
    """The status of a pod whose node fell silent: it may well run, but nothing may be sent to it."""
    fresh = condition(
        status.get("conditions", ()),
        "Ready",
        true=False,
        now=now,
        reason="NodeNotReady",
        message="the pod's node has not been heard of",
    )
    return {**status, "conditions": with_conditions(status, [fresh])}


def _by_name(reports: Iterable[state.ContainerReport]) -> dict[str, state.ContainerReport]:
    return {report.name: report for report in reports}


def _statuses(containers: Sequence[Container], reports: Mapping[str, state.ContainerReport]) -> list[Doc]:
    return [_container_status(each, reports.get(each.name, state.ContainerReport())) for each in containers]


def _container_status(container: Container, report: state.ContainerReport) -> Doc:
    status: Doc = {
        "name": container.name,
        "image": container.image,
        "imageID": "",
        "ready": report.ready,
        "started": report.started,
        "restartCount": report.restart_count,
        "state": _state(report),
    }
    if report.HasField("last"):
        status["lastState"] = {"terminated": _terminated(report.last)}
    return status


def _state(report: state.ContainerReport) -> Doc:
    if report.phase == state.CONTAINER_PHASE_RUNNING:
        return {"running": {"startedAt": rfc3339(report.started_unix_ms / 1000)}}
    if report.phase == state.CONTAINER_PHASE_TERMINATED:
        terminated = _terminated(
            state.Termination(
                exit_code=report.exit_code,
                signal=report.signal,
                reason=report.reason,
                started_unix_ms=report.started_unix_ms,
                finished_unix_ms=report.finished_unix_ms,
            )
        )
        if report.message:
            terminated["message"] = report.message
        return {"terminated": terminated}
    waiting: Doc = {"reason": report.reason or "ContainerCreating"}
    if report.message:
        waiting["message"] = report.message
    return {"waiting": waiting}


def _terminated(end: state.Termination) -> Doc:
    made: Doc = {"exitCode": end.exit_code, "reason": end.reason or ("Error" if end.exit_code else "Completed")}
    if end.signal:
        made["signal"] = end.signal
    if end.started_unix_ms:
        made["startedAt"] = rfc3339(end.started_unix_ms / 1000)
    if end.finished_unix_ms:
        made["finishedAt"] = rfc3339(end.finished_unix_ms / 1000)
    return made


def node_status(
    old: Mapping[str, Any],
    *,
    ready: bool,
    reason: str,
    message: str,
    addresses: Sequence[str],
    hostname: str,
    agent_version: str,
    boot_id: str,
    agent_port: int,
    now: str,
) -> Doc:
    """A node's status: how it is reached and whether it is ready."""
    status = dict(old)
    fresh = condition(old.get("conditions", ()), "Ready", true=ready, now=now, reason=reason, message=message)
    status["conditions"] = with_conditions(old, [fresh])
    if addresses:
        status["addresses"] = [
            *({"type": "InternalIP", "address": address} for address in addresses),
            {"type": "Hostname", "address": hostname},
        ]
    if agent_port:
        status["daemonEndpoints"] = {"kubeletEndpoint": {"Port": agent_port}}
    info = {**NODE_INFO, **old.get("nodeInfo", {})}
    if agent_version:
        info |= {"kubeletVersion": f"podwire-{agent_version}", "bootID": boot_id}
    status["nodeInfo"] = info
    return status
