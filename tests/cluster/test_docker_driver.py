"""The docker driver on a real engine: what it makes, that it makes it once, and that nothing of it stays."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from pytest_docker.plugin import Services

from compose import generate, image
from compose.engine import Engine
from podwire.drivers import hostnet
from podwire.drivers.base import UpOptions, state_directory
from podwire.drivers.docker import DockerDriver
from podwire.errors import AlreadyExists, InvalidInput, NotFound, Unavailable
from podwire.model.cluster import NodeSpec
from podwire.seams import SystemClock
from tests.cluster import pods
from tests.cluster.commandline import CommandLine
from tests.cluster.harness import Cluster, cluster_spec, containers, docker, eventually, no_progress, running

pytestmark = pytest.mark.cluster

NET_ADMIN, SYS_ADMIN = 12, 21
SHELL = pods.pod("shell", "a", pods.command("shell", "sh", "-c", "echo hello; exec sleep infinity"))


def effective_capabilities(container: str) -> int:
    status = docker("exec", container, "grep", "CapEff", "/proc/self/status")
    return int(status.split()[1], 16)


def host_state() -> dict[str, Any]:
    """The links, routes, rules and sysctls of this machine."""

    def run(*command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    links = {link["ifname"]: link.get("master", "") for link in json.loads(run("ip", "-j", "link"))}
    rules = [line for line in run("nft", "--stateless", "list", "ruleset").splitlines() if not line.startswith("#")]
    names = ("net.ipv4.ip_forward", "net.ipv4.conf.all", "net.ipv6.conf.all", "net.bridge", "net.core")
    return {
        "links": links,
        "routes": [sorted(run("ip", family, "route", "show", "table", "all").splitlines()) for family in ("-4", "-6")],
        "policies": run("ip", "rule"),
        "rules": rules,
        "sysctls": run("sysctl", "-a", "--pattern", "|".join(f"^{name}" for name in names)).splitlines(),
    }


def test_a_second_build_of_the_image_does_nothing(docker_engine: Engine, docker_cluster: Cluster) -> None:
    said: list[str] = []
    clock = SystemClock()
    began = clock.monotonic()
    name = image.ensure(docker_engine, said.append)
    assert said == []
    assert clock.monotonic() - began < 2.0
    assert docker_engine.image_label(name, image.LABEL) == name.partition(":")[2]


def test_the_image_is_small_enough(docker_engine: Engine, docker_cluster: Cluster) -> None:
    size = int(docker("image", "inspect", "--format", "{{.Size}}", "podwire:dev"))
    assert size < 250_000_000


async def test_up_again_changes_nothing(docker_cluster: Cluster) -> None:
    before = containers(docker_cluster.spec.name)
    await docker_cluster.driver.up(docker_cluster.spec, UpOptions(restricted=docker_cluster.restricted), no_progress)
    assert containers(docker_cluster.spec.name) == before
    assert len(before) == 4


def test_compose_finds_nothing_to_change(privileged_cluster: Cluster, docker_services: Services) -> None:
    """Setting `docker_services` up ran `compose up` over what the driver had made."""
    made = containers(privileged_cluster.spec.name)
    assert len(made) == 4
    assert docker_services.port_for(generate.CONTROLLER, generate.CONTROL_PORT) > 0


async def test_nodes_are_listed_with_their_addresses(docker_cluster: Cluster) -> None:
    nodes = await docker_cluster.driver.nodes()
    assert [node.name for node in nodes] == ["a", "b", "c"]
    assert all(node.state == "running" for node in nodes)
    assert len({node.address for node in nodes}) == 3


async def test_rights_are_as_said(docker_cluster: Cluster) -> None:
    node = generate.container_name(docker_cluster.spec.name, "a")
    found = effective_capabilities(node)
    assert found & 1 << NET_ADMIN
    assert found & 1 << SYS_ADMIN
    privileged = json.loads(docker("inspect", "--format", "{{json .HostConfig.Privileged}}", node))
    facts = {fact.name: fact.value for fact in await docker_cluster.driver.facts()}
    if docker_cluster.restricted:
        assert not privileged
        assert facts["node privileges"] == "restricted (asked for with --restricted)"
        assert found.bit_count() < 20
    else:
        assert facts["node privileges"].startswith("privileged") == privileged


def test_settings_of_the_node_can_be_written(docker_cluster: Cluster) -> None:
    """With --privileged as with two capabilities and two remounts."""
    node = generate.container_name(docker_cluster.spec.name, "a")
    docker("exec", node, "sysctl", "-w", "net.ipv4.conf.default.arp_ignore=0")
    docker("exec", node, "test", "-w", "/sys/class/net/lo/mtu")


def test_the_controller_is_nobody(docker_cluster: Cluster) -> None:
    controller = generate.container_name(docker_cluster.spec.name, generate.CONTROLLER)
    assert effective_capabilities(controller) == 0
    assert docker("exec", controller, "id", "-u").strip() != "0"


def test_no_docker_socket_and_nothing_of_the_host_is_inside(docker_cluster: Cluster) -> None:
    for name in containers(docker_cluster.spec.name):
        mounts = json.loads(docker("inspect", "--format", "{{json .Mounts}}", name))
        assert {mount["Type"] for mount in mounts} == {"volume"}
        assert subprocess.run(["docker", "exec", name, "test", "-e", "/var/run/docker.sock"], check=False).returncode


def test_only_the_loopback_port_is_published(docker_cluster: Cluster) -> None:
    for name in containers(docker_cluster.spec.name):
        ports = json.loads(docker("inspect", "--format", "{{json .NetworkSettings.Ports}}", name))
        published = {port: bindings for port, bindings in ports.items() if bindings}
        if name.endswith("-controller"):
            assert list(published) == ["7443/tcp"]
            assert {binding["HostIp"] for binding in published["7443/tcp"]} == {"127.0.0.1"}
        else:
            assert published == {}


def test_tokens_are_nowhere_to_be_read(docker_cluster: Cluster) -> None:
    """Not in what inspect shows, not in a process's arguments, not in a log; and the file is gone once used."""
    for node in docker_cluster.spec.nodes:
        name = generate.container_name(docker_cluster.spec.name, node.name)
        assert "token" not in docker("inspect", name).lower()
        assert "token" not in docker("top", name, "-o", "pid,args").lower()
        found = docker("exec", name, "sh", "-c", "cat /var/lib/podwire/join.json 2>/dev/null || true")
        assert not found or not json.loads(found).get("token")


def test_client_credentials_are_the_users_alone(docker_cluster: Cluster) -> None:
    directory = state_directory(docker_cluster.spec.name)
    assert directory.stat().st_mode & 0o777 == 0o700
    for name in ("ca.pem", "client.pem", "client.key"):
        assert (directory / name).stat().st_mode & 0o077 == 0


async def test_a_paused_node_stands_still_and_goes_on(docker_cluster: Cluster) -> None:
    driver = docker_cluster.driver

    async def state() -> str:
        return next(node.state for node in await driver.nodes() if node.name == "b")

    await driver.pause_node("b")
    await driver.pause_node("b")
    assert await state() == "paused"
    await driver.resume_node("b")
    await driver.resume_node("b")
    assert await state() == "running"
    await eventually(docker_cluster.all_ready, "node b is Ready again")


async def test_a_restarted_node_comes_back_by_itself(docker_cluster: Cluster) -> None:
    before = containers(docker_cluster.spec.name)
    await docker_cluster.driver.restart_node("c")
    after = containers(docker_cluster.spec.name)
    node = generate.container_name(docker_cluster.spec.name, "c")
    assert before[node][0] == after[node][0]
    assert before[node][1] != after[node][1]
    await eventually(docker_cluster.all_ready, "node c is Ready again")


async def test_the_controllers_new_port_is_found(docker_cluster: Cluster) -> None:
    controller = generate.container_name(docker_cluster.spec.name, generate.CONTROLLER)
    docker("restart", "--time", "2", controller)
    await eventually(docker_cluster.all_ready, "all nodes are Ready after the controller's restart")


async def test_unknown_nodes_and_the_controller_are_no_nodes(docker_cluster: Cluster) -> None:
    driver = docker_cluster.driver
    for name in ("nobody", generate.CONTROLLER):
        with pytest.raises(NotFound):
            await driver.restart_node(name)
    with pytest.raises(NotFound, match="no node 'nobody'"):
        await driver.delete_node("nobody")
    with pytest.raises(AlreadyExists, match="'a'"):
        await driver.add_node(NodeSpec("a"))


async def test_nodes_come_and_go_and_up_agrees(docker_engine: Engine, own_state: Path) -> None:
    async with running(cluster_spec("test-nodes", 1)) as cluster:
        before = containers("test-nodes")
        await cluster.driver.add_node(NodeSpec("late", "z9"))
        assert [node.name for node in await cluster.driver.nodes()] == ["late", "node-1"]
        grown = containers("test-nodes")
        assert {name: grown[name] for name in before} == before
        spec = cluster_spec("test-nodes", [{"name": "node-1"}, {"name": "late", "zone": "z9"}])
        await cluster.driver.up(spec, UpOptions(), no_progress)
        assert containers("test-nodes") == grown
        await cluster.driver.delete_node("late")
        assert containers("test-nodes") == before
        assert "late" not in docker("volume", "ls", "-q", "--filter", "label=podwire.cluster=test-nodes")
        with pytest.raises(InvalidInput, match="last"):
            await cluster.driver.delete_node("node-1")


async def test_clusters_side_by_side_leave_each_other_alone(docker_engine: Engine, own_state: Path) -> None:
    async with running(cluster_spec("test-one", 1)) as one:
        before = containers("test-one")
        async with running(cluster_spec("test-two", 1)) as two:
            assert await one.all_ready()
            assert await two.all_ready()
        assert containers("test-two") == {}
        assert containers("test-one") == before
        assert await one.all_ready()


async def test_down_leaves_the_host_as_it_was(docker_engine: Engine, own_state: Path) -> None:
    before = host_state()
    async with running(cluster_spec("test-traces", 2)) as cluster:
        assert host_state()["links"] != before["links"]
        name = cluster.spec.name
    assert host_state() == before
    assert containers(name) == {}
    for kind in ("volume", "network"):
        assert not docker(kind, "ls", "-q", "--filter", f"label={generate.CLUSTER_LABEL}={name}").strip()
    assert not state_directory(name).exists()
    driver = DockerDriver(name)
    await driver.down(no_progress)
    with pytest.raises((NotFound, Unavailable)):
        await driver.endpoint()


async def test_a_range_of_the_host_is_refused_before_anything_is_made(docker_engine: Engine, own_state: Path) -> None:
    taken = str(next(each.network for each in hostnet.host_networks() if each.network.version == 4))
    spec = cluster_spec("test-collision", 1, underlayCIDR=taken)
    with pytest.raises(InvalidInput, match="collides") as caught:
        await DockerDriver("test-collision").up(spec, UpOptions(), no_progress)
    assert caught.value.field == "spec.underlayCIDR"
    assert containers("test-collision") == {}


async def test_pods_run_and_are_entered_with_few_rights_as_with_all(docker_cluster: Cluster) -> None:
    """Traffic of pods is in test_packets (privileged) and test_dual_stack (restricted)."""
    mode = "restricted" if docker_cluster.restricted else "privileged"
    command = CommandLine(docker_cluster.spec.name)
    assert {node["privileges"] for node in command.json("status")["nodes"]} == {mode}
    facts = {fact["name"]: fact for fact in command.json("doctor")["facts"]}
    assert facts["node privileges"]["found"].startswith(mode)
    async with docker_cluster.client() as client, pods.applied(client, SHELL, pods.pod("web", "b")) as addresses:
        assert command.run("logs", "shell").stdout == "hello\n"
        reach = f"cat; ping -c1 -W2 {addresses['web']} >&2; exit 7"
        done = command.run("exec", "shell", "-i", "--", "sh", "-c", reach, code=7, stdin="in\n")
        assert done.stdout == "in\n"
        assert " 0% packet loss" in done.stderr
        seen = command.run("exec", "web", "--", "curl", "-s", f"{addresses['web']}:{pods.HTTP_PORT}/hostname").stdout
        assert seen == "web"
