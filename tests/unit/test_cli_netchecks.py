"""The network model's checks: which probes are sent, and what makes them fail."""

from __future__ import annotations

from podwire.api.v1 import node_agent_pb2 as agent
from podwire.cli.netchecks import (
    Case,
    Check,
    ProbedNode,
    ProbedPod,
    checks,
    judge,
    reached,
    refused,
    seen_as,
    unique_addresses,
)

NODES = (
    ProbedNode("n1", ("198.18.0.2",), ("10.244.1.0/24", "fd00:1::/64"), 1450),
    ProbedNode("n2", ("198.18.0.3",), ("10.244.2.0/24", "fd00:2::/64"), 1450),
)
PODS = (
    ProbedPod("a", "n1", ("10.244.1.2", "fd00:1::2")),
    ProbedPod("b", "n2", ("10.244.2.2", "fd00:2::2")),
)


def good_answer(check: Check, case: Case) -> agent.ProbeResult:
    """What a right network answers."""
    own = {"a": PODS[0].addresses, "b": PODS[1].addresses}.get(case.probe.pod, ("",))
    seen = f"[{own[1]}]:9" if ":" in case.probe.address and len(own) > 1 else f"{own[0]}:9"
    return agent.ProbeResult(id=case.probe.id, ok="larger" not in check.name, answer=seen.encode())


def test_a_right_network_passes_every_check() -> None:
    for check in checks("ns", PODS, NODES):
        verdict = judge(check, {case.probe.id: good_answer(check, case) for case in check.cases})
        assert verdict.ok, verdict


def test_ids_are_unique_and_families_are_not_mixed() -> None:
    cases = [case for check in checks("ns", PODS, NODES) for case in check.cases]
    assert len({case.probe.id for case in cases}) == len(cases)
    families = {address: ":" in address for pod in PODS for address in pod.addresses}
    udp = [case for case in cases if case.probe.kind == agent.PROBE_KIND_UDP]
    assert len(udp) == 4
    assert all(case.probe.address in families for case in udp)


def test_the_largest_packet_is_the_mtu() -> None:
    sizes = {
        case.probe.size for check in checks("ns", PODS, NODES) if "unfragmented" in check.name for case in check.cases
    }
    assert sizes == {1450 - 28, 1450 - 48}


def test_one_failure_fails_a_check_and_is_named() -> None:
    check = checks("ns", PODS, NODES)[1]
    results = {case.probe.id: good_answer(check, case) for case in check.cases}
    results[check.cases[0].probe.id] = agent.ProbeResult(ok=False, error="timeout")
    verdict = judge(check, results)
    assert not verdict.ok
    assert verdict.detail == "3 of 4; a to b (10.244.2.2): timeout"
    assert "no result" in judge(check, {}).detail


def test_a_check_with_nothing_to_try_does_not_pass() -> None:
    assert not judge(Check("empty", ()), {}).ok


def test_judges() -> None:
    assert seen_as("10.244.1.2")(agent.ProbeResult(ok=True, answer=b"10.244.1.2:5353")) == ""
    assert seen_as("fd00::2")(agent.ProbeResult(ok=True, answer=b"[fd00:0::2]:5353")) == ""
    assert "not 10.244.1.2" in seen_as("10.244.1.2")(agent.ProbeResult(ok=True, answer=b"198.18.0.2:5353"))
    assert "answered" in seen_as("10.244.1.2")(agent.ProbeResult(ok=True, answer=b"hello"))
    assert seen_as("10.244.1.2")(agent.ProbeResult(error="timeout")) == "timeout"
    assert reached(agent.ProbeResult(ok=True)) == refused(agent.ProbeResult(ok=False)) == ""
    assert refused(agent.ProbeResult(ok=True)) == "it was answered"


def test_addresses_are_unique_and_from_the_right_range() -> None:
    def pod(name: str, node: str, address: str) -> dict[str, object]:
        return {"metadata": {"name": name}, "spec": {"nodeName": node}, "status": {"podIPs": [{"ip": address}]}}

    assert unique_addresses([pod("a", "n1", "10.244.1.2"), pod("b", "n2", "10.244.2.2")], NODES).ok
    assert (
        "more than once" in unique_addresses([pod("a", "n1", "10.244.1.2"), pod("b", "n1", "10.244.1.2")], NODES).detail
    )
    assert "not of node n1" in unique_addresses([pod("a", "n1", "10.244.2.2")], NODES).detail
