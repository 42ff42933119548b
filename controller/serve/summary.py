"""The cluster as a whole, for `podwire status`.

In: the controller's snapshot and what is known of its agents. Out: a StatusResponse. Pure.
"""

from __future__ import annotations

import msgspec

import podwire
from controller.admission.node import ZONE_LABEL
from controller.controller import Controller
from controller.sessions import Agent
from controller.snapshot import Node, Pod
from controller.status import STAND_IN
from podwire.api.v1 import control_pb2 as control
from podwire.api.v1 import state_pb2 as state

UNAUTHENTICATED_OVERLAY = (
    "UNAUTHENTICATED OVERLAY: whoever reaches the underlay network can send into the pod network; keep it private"
)


def cluster_status(controller: Controller) -> control.StatusResponse:
    """Everything that `status` shows."""
    snapshot, hub = controller.snapshot, controller.hub
    pods = snapshot.pods.values()
    return control.StatusResponse(
        cluster=snapshot.spec.name,
        version=podwire.__version__,
        store_id=hub.store_id,
        epoch=hub.epoch,
        revision=snapshot.revision,
        nodes=[
            _node(node, hub.agents.get(name) or Agent(name), len(snapshot.bound.get(name, ())))
            for name, node in sorted(snapshot.nodes.items())
        ],
        degraded=[UNAUTHENTICATED_OVERLAY],
        cluster_document=msgspec.json.encode(snapshot.spec.document()),
        pods=len(pods),
        pods_ready=sum(_is(pod, "Ready") for pod in pods),
        stand_ins=sum(_is(pod, STAND_IN) for pod in pods),
    )


def _is(pod: Pod, condition: str) -> bool:
    conditions = pod.doc.get("status", {}).get("conditions", ())
    return any(each["type"] == condition and each["status"] == "True" for each in conditions)


def _node(node: Node, agent: Agent, pods: int) -> control.NodeStatus:
    ready = next((each for each in node.view.status.conditions if each.type == "Ready"), None)
    degraded = [*agent.degraded]
    if agent.apply_error:
        degraded.append(f"the last revision could not be applied whole: {agent.apply_error}")
    return control.NodeStatus(
        name=node.view.metadata.name,
        ready=node.view.ready,
        reason=ready.message if ready and not node.view.ready else "",
        connected=agent.connected,
        revision_applied=agent.revision_applied,
        boot_id=agent.boot_id,
        underlay_addresses=agent.underlay_addresses or node.view.underlay_addresses,
        pod_cidrs=node.view.spec.pod_cidrs,
        privileges=agent.privileges,
        degraded=degraded,
        pods=pods,
        zone=node.view.labels.get(ZONE_LABEL, ""),
        pod_mtu=agent.pod_mtu,
        last_seen_unix_ms=agent.last_seen_unix_ms,
        capabilities=[
            state.Capability(name=name, available=available, detail=detail)
            for name, (available, detail) in sorted(agent.capabilities.items())
        ],
    )
