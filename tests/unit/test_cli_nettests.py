"""`test pingall` and `test network` without a network: which probes are sent, and what is made of the answers."""

from __future__ import annotations

from typing import Any

import pytest

from podwire.api.v1 import node_agent_pb2 as agent
from podwire.cli import netchecks, pingall
from podwire.cli.netchecks import ProbedNode as Node
from podwire.cli.netchecks import ProbedPod as Pod

DUAL = [("10.244.1.2", "fd00:1::2"), ("10.244.1.3", "fd00:1::3"), ("10.244.2.2", "fd00:2::2")]
GOOD = agent.ProbeResult(ok=True, rtt_ms=0.2)


def document(name: str, addresses: tuple[str, ...], namespace: str = "default", **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
        "status": {"phase": "Running", "podIP": addresses[0], "podIPs": [{"ip": address} for address in addresses]},
    }


def outcome(pods: list[dict[str, Any]], failing: dict[tuple[int, int, int], str]) -> pingall.Outcome:
    tried = pingall.crossings(pods)
    results = {each.id: GOOD for each in tried}
    for (source, target, version), error in failing.items():
        results[f"{source}-{target}-{version}"] = agent.ProbeResult(error=error)
    return pingall.Outcome(pods, tried, results)


def test_every_pair_is_tried_in_every_family() -> None:
    pods = [document(f"p{number}", addresses) for number, addresses in enumerate(DUAL)]
    tried = pingall.crossings(pods)
    assert len(tried) == 6 * 2
    assert {each.address for each in tried} == {address for pair in DUAL for address in pair}
    sent = pingall.probe(pods, tried[0], 8080)
    assert (sent.pod, sent.address, sent.port, sent.kind) == ("p0", "10.244.1.3", 8080, agent.PROBE_KIND_TCP)
    assert pingall.probe(pods, tried[1], None).kind == agent.PROBE_KIND_ICMP


def test_one_family_that_fails_is_named() -> None:
    pods = [document(f"p{number}", addresses) for number, addresses in enumerate(DUAL[:2])]
    found = outcome(pods, {(0, 1, 6): "timeout"})
    table = found.table()
    assert table is not None
    assert table.rows[0] == ("p0", ".", "FAIL (IPv6: timeout)")
    assert table.rows[1] == ("p1", "ok", ".")
    assert found.sentence() == "1 of 2 pairs reach each other, over IPv4 and IPv6."
    assert [cell["ok"] for cell in found.document()["pairs"]] == [True, False, True, True]
    assert list(outcome(pods, {(0, 1, 6): "timeout", (0, 1, 4): "timeout"}).failures()) == ["FAIL p0 to p1: timeout"]


def test_pods_without_a_common_family_do_not_reach_each_other() -> None:
    pods = [document("four", ("10.244.1.2",)), document("six", ("fd00:1::3",), "other")]
    found = outcome(pods, {})
    assert not found.ok
    assert next(found.failures()) == f"FAIL default/four to other/six: {pingall.NO_FAMILY}"


@pytest.mark.parametrize(
    "pod",
    [
        document("host", ("192.0.2.1",), hostNetwork=True),
        document("done", ("10.244.1.2",)) | {"status": {"phase": "Succeeded", "podIPs": [{"ip": "10.244.1.2"}]}},
        {"metadata": {"name": "new"}, "spec": {}, "status": {"phase": "Pending"}},
    ],
)
def test_pods_that_have_no_address_to_try(pod: dict[str, Any]) -> None:
    assert pingall.addresses(pod) == {}


def planned(underlay: tuple[str, ...]) -> dict[str, list[str]]:
    """The addresses that each check of a dual-stack cluster tries."""
    nodes = [
        Node("a", underlay, ("10.244.1.0/24", "fd00:1::/64"), 1450),
        Node("b", underlay, ("10.244.2.0/24", "fd00:2::/64"), 1450),
    ]
    pods = [Pod("net-1", "a", DUAL[0]), Pod("net-2", "b", DUAL[2])]
    return {
        check.name: [case.probe.address for case in check.cases] for check in netchecks.checks("space", pods, nodes)
    }


def test_every_check_covers_both_families() -> None:
    for addresses in planned(("192.0.2.1", "2001:db8::1")).values():
        assert {netchecks._version(address) for address in addresses} == {4, 6}


def test_a_node_is_reached_at_its_gateway_in_a_family_that_its_underlay_lacks() -> None:
    tried = planned(("192.0.2.1",))["pods reach their node"]
    assert tried == ["192.0.2.1", "fd00:1::1", "192.0.2.1", "fd00:2::1"]


def test_the_largest_packet_follows_family_and_mtu() -> None:
    nodes = [Node(name, ("192.0.2.1",), (), 1430) for name in "ab"]
    pods = [Pod("net-1", "a", DUAL[0]), Pod("net-2", "b", DUAL[2])]
    fits, too_large = netchecks.checks("space", pods, nodes)[-2:]
    assert [case.probe.size for case in fits.cases][:2] == [1430 - 28, 1430 - 48]
    assert [case.probe.size for case in too_large.cases][:2] == [1430 - 27, 1430 - 47]


@pytest.mark.parametrize(
    ("answer", "wrong"),
    [
        (agent.ProbeResult(ok=True, answer=b"10.244.1.2:4711"), ""),
        (agent.ProbeResult(ok=True, answer=b"192.0.2.1:4711"), "the receiver saw 192.0.2.1, not 10.244.1.2"),
        (agent.ProbeResult(ok=True, answer=b"hello"), "the receiver answered ''"),
        (agent.ProbeResult(error="refused"), "refused"),
    ],
)
def test_a_translated_sender_is_noticed(answer: agent.ProbeResult, wrong: str) -> None:
    assert netchecks.seen_as("10.244.1.2")(answer) == wrong


def test_an_address_of_another_nodes_range_is_noticed() -> None:
    nodes = [Node("a", ("192.0.2.1",), ("10.244.1.0/24", "fd00:1::/64"), 1450)]
    good = document("one", DUAL[0], nodeName="a")
    assert netchecks.unique_addresses([good], nodes).ok
    astray = document("two", ("10.244.1.9", "fd00:2::9"), nodeName="a")
    assert netchecks.unique_addresses([good, astray], nodes).detail == "two has fd00:2::9, which is not of node a"
    assert "more than once" in netchecks.unique_addresses([good, good], nodes).detail
