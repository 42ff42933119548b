"""Pods with an address of each family: over an underlay of IPv4, over one of IPv6, and on restricted containers."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from compose import generate
from podwire.api.v1 import node_agent_pb2 as agent
from podwire.api.v1.control_pb2 import PairProbe
from podwire.client import ControlClient
from podwire.drivers.local import layout
from tests.cluster import pods
from tests.cluster.commandline import CommandLine
from tests.cluster.harness import NODES, Cluster, cluster_spec, docker, held

pytestmark = pytest.mark.cluster

OVER_IPV4, OVER_IPV6, RESTRICTED = "local driver", "local driver over IPv6", "restricted containers"
POD_MTU = {4: 1450, 6: 1430}  # an underlay of 1500 less outer Ethernet, IP, UDP and VXLAN


@pytest.fixture(scope="module", params=[OVER_IPV4, OVER_IPV6, RESTRICTED])
def dual(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if request.param == RESTRICTED:
        yield request.getfixturevalue("restricted_cluster")
        return
    request.getfixturevalue("own_state")
    underlay = "fd00:99::/64" if request.param == OVER_IPV6 else "198.18.0.0/24"
    yield from held(cluster_spec("test-dual", NODES[:2], podCIDRv6="fd00:77::/48", underlayCIDR=underlay), local=True)


@pytest.fixture
async def client(dual: Cluster) -> AsyncIterator[ControlClient]:
    async with dual.client() as connected:
        yield connected


def controller_address(cluster: Cluster) -> str:
    """The controller's on the underlay: outside of the cluster's pod network, and it has no route back to pods."""
    if cluster.spec.underlay_cidr is not None:
        return str(layout.controller_address(cluster.spec.underlay_cidr).ip)
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return docker("inspect", "--format", form, generate.container_name(cluster.spec.name, generate.CONTROLLER)).strip()


async def run(client: ControlClient, pod: str, *argv: str) -> tuple[int, str]:
    start = agent.ExecStart(namespace="default", pod=pod, argv=argv)
    answers = [answer async for answer in client.exec(start)]
    return answers[-1].exit.code, b"".join(answer.stdout + answer.stderr for answer in answers).decode()


async def addresses(client: ControlClient) -> dict[str, dict[int, str]]:
    """Pod → family → address."""
    listed = (await client.list("pods", namespace="default")).documents
    return {
        pod["metadata"]["name"]: {ipaddress.ip_address(one["ip"]).version: one["ip"] for one in pod["status"]["podIPs"]}
        for pod in listed
    }


async def test_a_pod_has_an_address_of_each_family_and_its_hosts_file_both(
    dual: Cluster, client: ControlClient
) -> None:
    async with pods.applied(client, *pods.TRIO) as first:
        owned = await addresses(client)
        for name, found in owned.items():
            assert list(found) == [4, 6]
            assert found[4] == first[name]
            code, hosts = await run(client, name, "cat", "/etc/hosts")
            assert code == 0
            lines = [line.split() for line in hosts.splitlines()]
            assert [found[4], name] in lines
            assert [found[6], name] in lines
        nodes = (await client.list("nodes")).documents
        cidrs = {node["metadata"]["name"]: node["spec"]["podCIDRs"] for node in nodes}
        for pod, node in (("a1", "a"), ("a2", "a"), ("b1", "b")):
            for address, cidr in zip(owned[pod].values(), cidrs[node], strict=True):
                assert ipaddress.ip_address(address) in ipaddress.ip_network(cidr)


async def test_all_pairs_are_reached_over_both_families_with_their_own_addresses(
    dual: Cluster, client: ControlClient
) -> None:
    async with pods.applied(client, *pods.TRIO):
        owned = await addresses(client)
        probes, senders = [], {}
        for source, target in itertools.permutations(owned, 2):
            for version in (4, 6):
                for kind, port, payload in (
                    (agent.PROBE_KIND_ICMP, 0, b""),
                    (agent.PROBE_KIND_TCP, pods.HTTP_PORT, b""),
                    (agent.PROBE_KIND_UDP, pods.UDP_PORT, b"clientip"),
                ):
                    name = f"{source} to {target}, {agent.ProbeKind.Name(kind)} over IPv{version}"
                    probe = PairProbe(id=name, namespace="default", pod=source, address=owned[target][version])
                    probe.kind, probe.port, probe.payload = kind, port, payload
                    probes.append(probe)
                    senders[name] = owned[source][version] if payload else ""
        results = await client.probe(probes)
        assert {result.id: result.error for result in results} == dict.fromkeys(senders, "")
        seen = {result.id: result.answer.decode().rpartition(":")[0].strip("[]") for result in results}
        assert seen == senders


async def test_what_leaves_the_cluster_is_masqueraded(dual: Cluster, client: ControlClient) -> None:
    """The answer comes, and only a node's address has a way back; in the family that the underlay has."""
    async with pods.applied(client, pods.TRIO[0]):
        target = controller_address(dual)
        code, said = await run(client, "a1", "nc", "-z", "-v", "-w", "3", target, str(generate.CONTROL_PORT))
        assert code == 0, said


async def test_the_commands_that_test_cover_both_families(dual: Cluster, client: ControlClient) -> None:
    command = CommandLine(dual.spec.name)
    status = command.json("status")
    underlay = ipaddress.ip_address(status["nodes"][0]["underlayAddresses"][0]).version
    assert {node["podMTU"] for node in status["nodes"]} == {POD_MTU[underlay]}
    verdicts = command.json("test", "network")
    assert verdicts["ok"], verdicts
    async with pods.applied(client, *pods.TRIO):
        crossed = command.json("test", "pingall")
        assert crossed["ok"], crossed
        assert len(crossed["pairs"]) == 6 * 2
        assert {ipaddress.ip_address(pair["address"]).version for pair in crossed["pairs"]} == {4, 6}
        assert (
            "6 of 6 pairs reach each other, over IPv4 and IPv6."
            in command.run("test", "pingall", "--tcp", "8080").stdout
        )
