"""What the agent tells the controller: its node, its pods, and at the start of a stream everything it holds.

In: the agent's loop and the pods' lives. Out: `Hello` and `NodeReport` messages, complete for the pods they name. Pure apart from
reading its sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from nodeagent.agent import NodeAgent, PodLives
from nodeagent.desired import Assembler
from podwire import __version__
from podwire.api.v1 import node_sync_pb2 as sync
from podwire.api.v1 import state_pb2 as state


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What does not change while the agent runs."""

    boot_id: str
    agent_port: int
    privileges: str  # "privileged" | "restricted" | "user-namespace"
    capabilities: Mapping[str, tuple[bool, str]]


class Reports:
    """Builds messages; `degraded` is asked each time, so that it is true each time."""

    def __init__(
        self,
        *,
        facts: NodeFacts,
        agent: NodeAgent,
        lives: PodLives,
        assembler: Assembler,
        degraded: Callable[[], list[str]],
    ) -> None:
        self._facts = facts
        self._agent = agent
        self._lives = lives
        self._assembler = assembler
        self._degraded = degraded

    def hello(self) -> sync.Hello:
        """Who we are and everything we hold."""
        desired = self._assembler.desired
        return sync.Hello(
            boot_id=self._facts.boot_id,
            store_id=desired.store_id,
            epoch=desired.epoch,
            revision=desired.revision,
            underlay_addresses=self._agent.underlay_addresses,
            agent_port=self._facts.agent_port,
            version=__version__,
            pod_cidrs=desired.node.pod_cidrs,
            inventory=self.report(desired.pods, complete=True),
        )

    def report(self, uids: Iterable[str], *, complete: bool = False) -> state.NodeReport:
        """The node, and these pods as they are now. That a pod is gone is said once on a stream: the first report of the next repeats
        what may have been lost with this one.
        """
        agent = self._agent
        uids = frozenset(uids)
        gone = agent.gone()
        reading = agent.reading
        return state.NodeReport(
            pods=[
                self._pod(pod, whole=complete)
                for uid in uids
                if (pod := self._assembler.desired.pods.get(uid)) is not None
            ],
            underlay_addresses=agent.underlay_addresses,
            pod_mtu=reading.network.pod_mtu if reading else 0,
            capabilities=[
                state.Capability(name=name, available=available, detail=detail)
                for name, (available, detail) in sorted(self._facts.capabilities.items())
            ],
            degraded=[*self._degraded(), *agent.errors],
            repairs=agent.drift.take(),
            complete=complete,
            privileges=self._facts.privileges,
            removed_uids=gone if complete else [uid for uid in gone if uid in uids],
        )

    def _pod(self, pod: state.PodState, *, whole: bool) -> state.PodReport:
        report = self._lives.report(pod.uid) or state.PodReport(phase=state.POD_PHASE_PENDING)
        report.uid, report.namespace, report.name = pod.uid, pod.namespace, pod.name
        report.generation = pod.generation
        if whole:
            report.manifest = pod.manifest
        del report.addresses[:]
        report.addresses.extend(pod.addresses)
        error = self._agent.pod_errors.get(pod.uid)
        if error is not None and not report.message:
            report.reason, report.message = "NetworkNotReady", error
        return report
