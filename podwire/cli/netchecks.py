"""The Kubernetes network model as checks: which probes, and what each must answer.

In: the test's pods, the cluster's nodes, and what the controller says of all pods. Out: `Check`s with their cases, and verdicts once the
results are there. Pure: `test.py` makes the pods and sends the probes. A receiver that sees the sender's own address proves that nothing
translated it; a largest packet that passes and a larger one that does not prove the MTU.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from podwire.api.v1 import node_agent_pb2 as agent
from podwire.api.v1.control_pb2 import PairProbe
from podwire.model.addresses import gateway_address

HTTP_PORT, UDP_PORT, SECOND_PORT = 8080, 8081, 8090
IMAGE = "agnhost"
# Bytes around an echo's payload: an IP header without options, and the ICMP header.
ECHO_OVERHEAD = {4: 28, 6: 48}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}

Expect = Callable[[agent.ProbeResult], str]
"""Judges a result: empty when it is as it must be, or what is wrong."""


@dataclass(frozen=True, slots=True)
class ProbedPod:
    """One of the pods made for the test."""

    name: str
    node: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProbedNode:
    """A node with a pod of the test on it."""

    name: str
    addresses: tuple[str, ...]
    pod_cidrs: tuple[str, ...]
    pod_mtu: int


@dataclass(frozen=True, slots=True)
class Case:
    """One probe and what it must answer; `text` says what was tried."""

    text: str
    probe: PairProbe
    expect: Expect


@dataclass(frozen=True, slots=True)
class Check:
    """A promise of the model, and the cases that try it."""

    name: str
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a check."""

    name: str
    ok: bool
    detail: str


def reached(result: agent.ProbeResult) -> str:
    """The probe must be answered."""
    return "" if result.ok else result.error or "no answer"


def refused(result: agent.ProbeResult) -> str:
    """The probe must not be answered."""
    return "it was answered" if result.ok else ""


def seen_as(address: str) -> Expect:
    """The answer is `address:port`, as the receiver saw the sender, and must name this address."""

    def expect(result: agent.ProbeResult) -> str:
        if not result.ok:
            return reached(result)
        seen = result.answer.decode(errors="replace").strip().rpartition(":")[0].strip("[]")
        try:
            same = ipaddress.ip_address(seen) == ipaddress.ip_address(address)
        except ValueError:
            return f"the receiver answered {seen!r}"
        return "" if same else f"the receiver saw {seen}, not {address}"

    return expect


def checks(namespace: str, pods: Sequence[ProbedPod], nodes: Sequence[ProbedNode]) -> list[Check]:
    """Every check that needs probes."""
    builder = _Builder(namespace, pods, {node.name: node for node in nodes})
    return [
        Check("pods reach pods, each seen with its own address (UDP, no NAT)", tuple(builder.no_nat())),
        Check("pods reach pods over TCP", tuple(builder.tcp())),
        Check("nodes reach their pods", tuple(builder.node_to_pod())),
        Check("pods reach their node", tuple(builder.pod_to_node())),
        Check("containers of a pod share localhost", tuple(builder.localhost())),
        Check("a packet of the pod MTU passes between nodes unfragmented", tuple(builder.mtu(0, reached))),
        Check("a larger one does not", tuple(builder.mtu(1, refused))),
    ]


def judge(check: Check, results: Mapping[str, agent.ProbeResult]) -> Verdict:
    """All cases of a check together; the detail names the first that failed."""
    wrong = [
        f"{case.text}: {problem}"
        for case in check.cases
        if (problem := case.expect(results.get(case.probe.id) or agent.ProbeResult(error="no result")))
    ]
    good = len(check.cases) - len(wrong)
    detail = f"{good} of {len(check.cases)}" + (f"; {wrong[0]}" if wrong else "")
    return Verdict(check.name, not wrong and bool(check.cases), detail if check.cases else "nothing to try")


def unique_addresses(pods: Sequence[dict[str, Any]], nodes: Sequence[ProbedNode]) -> Verdict:
    """No address is two pods', and each is from its node's pod CIDR; of all pods in the cluster that have one."""
    cidrs = {node.name: [ipaddress.ip_network(cidr) for cidr in node.pod_cidrs] for node in nodes}
    owned = [
        (pod["metadata"]["name"], pod["spec"].get("nodeName", ""), ipaddress.ip_address(one["ip"]))
        for pod in pods
        if not pod["spec"].get("hostNetwork")
        for one in pod.get("status", {}).get("podIPs") or []
    ]
    name = "every pod has an address of its own, from its node's range"
    twice = [str(address) for address, count in Counter(address for _, _, address in owned).items() if count > 1]
    if twice:
        return Verdict(name, ok=False, detail=f"{twice[0]} is given more than once")
    for pod, node, address in owned:
        if node in cidrs and not any(address in cidr for cidr in cidrs[node]):
            return Verdict(name, ok=False, detail=f"{pod} has {address}, which is not of node {node}")
    return Verdict(name, ok=bool(owned), detail=f"{len(owned)} addresses")


@dataclass(slots=True)
class _Builder:
    """Makes the probes; ids are numbers in order."""

    namespace: str
    pods: Sequence[ProbedPod]
    nodes: Mapping[str, ProbedNode]
    count: int = 0

    def no_nat(self) -> Iterator[Case]:
        for source, target, own, address in self._pod_pairs():
            probe = self._probe(source, address, agent.PROBE_KIND_UDP, port=UDP_PORT, payload=b"clientip")
            yield Case(f"{source.name} to {target.name} ({address})", probe, seen_as(own))

    def tcp(self) -> Iterator[Case]:
        for source, target, _, address in self._pod_pairs():
            probe = self._probe(source, address, agent.PROBE_KIND_TCP, port=HTTP_PORT)
            yield Case(f"{source.name} to {target.name} ({address})", probe, reached)

    def node_to_pod(self) -> Iterator[Case]:
        for pod in self.pods:
            for address in pod.addresses:
                probe = PairProbe(
                    id=self._id(), node=pod.node, address=address, port=HTTP_PORT, kind=agent.PROBE_KIND_TCP
                )
                yield Case(f"node {pod.node} to {pod.name} ({address})", probe, reached)

    def pod_to_node(self) -> Iterator[Case]:
        for pod in self.pods:
            for address in _reachable_at(self.nodes[pod.node]):
                if _version(address) in {_version(own) for own in pod.addresses}:
                    probe = self._probe(pod, address, agent.PROBE_KIND_ICMP)
                    yield Case(f"{pod.name} to node {pod.node} ({address})", probe, reached)

    def localhost(self) -> Iterator[Case]:
        for pod in self.pods:
            families = sorted({_version(own) for own in pod.addresses})
            for version, port in itertools.product(families, (HTTP_PORT, SECOND_PORT)):
                probe = self._probe(pod, LOOPBACK[version], agent.PROBE_KIND_TCP, port=port)
                yield Case(f"{pod.name} to its own port {port} ({LOOPBACK[version]})", probe, reached)

    def mtu(self, extra: int, expect: Expect) -> Iterator[Case]:
        for source, target, _, address in self._pod_pairs():
            if source.node != target.node:
                size = self.nodes[source.node].pod_mtu - ECHO_OVERHEAD[_version(address)] + extra
                probe = self._probe(source, address, agent.PROBE_KIND_ICMP, size=size)
                yield Case(f"{source.name} to {target.name} ({address}), {size} bytes", probe, expect)

    def _pod_pairs(self) -> Iterator[tuple[ProbedPod, ProbedPod, str, str]]:
        """Source, target, and an address of each, of one family."""
        for source, target in itertools.permutations(self.pods, 2):
            for own, address in itertools.product(source.addresses, target.addresses):
                if _version(own) == _version(address):
                    yield source, target, own, address

    def _probe(
        self,
        pod: ProbedPod,
        address: str,
        kind: agent.ProbeKind.ValueType,
        *,
        port: int = 0,
        payload: bytes = b"",
        size: int = 0,
    ) -> PairProbe:
        return PairProbe(
            id=self._id(),
            namespace=self.namespace,
            pod=pod.name,
            address=address,
            port=port,
            kind=kind,
            payload=payload,
            size=size,
        )

    def _id(self) -> str:
        self.count += 1
        return str(self.count)


def _reachable_at(node: ProbedNode) -> list[str]:
    """The node's addresses; in a family that its underlay does not have, the gateway of its pods."""
    versions = {_version(address) for address in node.addresses}
    cidrs = [ipaddress.ip_network(cidr) for cidr in node.pod_cidrs]
    gateways = [str(gateway_address(cidr)) for cidr in cidrs if cidr.version not in versions]
    return [*node.addresses, *gateways]


def _version(address: str) -> int:
    return ipaddress.ip_address(address).version
