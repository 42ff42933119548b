"""The local driver through the command line: a cluster of namespaces on this machine, and that nothing of it stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from podwire.drivers.base import state_directory
from podwire.drivers.local import control, layout, processes
from podwire.drivers.local.facts import collect
from podwire.seams import SystemClock

pytestmark = pytest.mark.cluster

WITHIN_S = 20.0


def eventually(holds: Callable[[], bool], what: str) -> None:
    clock = SystemClock()
    deadline = clock.monotonic() + WITHIN_S
    while not holds():
        assert clock.monotonic() < deadline, what
        clock.pause(0.05)


class Local:
    """A cluster, by the command line that a user has."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def paths(self) -> layout.Layout:
        return layout.Layout(state_directory(self.name))

    def run(self, *argv: str, code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "podwire.cli.main", "--cluster", self.name, *argv]
        done = subprocess.run(command, capture_output=True, text=True, check=False, input=stdin, timeout=120)
        assert done.returncode == code, f"{argv}: exit {done.returncode}\n{done.stdout}{done.stderr}{self.logs()}"
        assert "Traceback" not in done.stderr
        return done

    def json(self, *argv: str) -> Any:
        return json.loads(self.run(*argv, "-o", "json").stdout)

    def logs(self) -> str:
        files = sorted(self.paths.root.rglob("*.log"))
        return "".join(f"\n== {file}\n{file.read_text()[-1500:]}" for file in files if file.stat().st_size)

    def processes(self, node: str) -> dict[str, int]:
        listed: list[dict[str, Any]] = control.call(self.paths.control_socket, "nodes")
        return next(one["processes"] for one in listed if one["name"] == node)

    @property
    def supervisor(self) -> int:
        return int(json.loads(self.paths.supervisor_file.read_text())["pid"])

    def everything(self) -> set[int]:
        """Every process of the cluster, the supervisor included."""
        return {self.supervisor, *processes.below(self.supervisor)}


def traces(cluster: Local) -> set[str]:
    """Links and mounts of this machine that a local cluster could have made. Links of other kinds come and go with other programs."""
    links = {entry.name for entry in Path("/sys/class/net").iterdir()}
    ours = {link for link in links if link.startswith(("underlay", "node", "pw-"))}
    return ours | {
        line for line in Path("/proc/self/mounts").read_text().splitlines() if str(cluster.paths.root) in line
    }


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if processes.start_time(pid) is not None}


@pytest.fixture(scope="module")
def local(own_state: Path) -> Iterator[Local]:
    """Three nodes, made once for this module; the machine sees nothing of them, neither now nor afterwards."""
    lacking = [f"{fact.name}: {fact.value}" for fact in collect() if not fact.ok]
    if lacking:
        pytest.skip(f"the local driver cannot work here: {lacking[0]}")
    cluster = Local("test-local")
    assert not traces(cluster)
    try:
        cluster.run("up", "--driver", "local")
        assert not traces(cluster)
        yield cluster
        everything = cluster.everything()
    finally:
        cluster.run("down")
    eventually(lambda: not alive(everything), "processes of the cluster outlive `down`")
    assert not cluster.paths.root.exists()
    assert not traces(cluster)


@pytest.fixture(scope="module")
def pods(local: Local) -> dict[str, str]:
    """a1 and a2 on the first node, b1 on the second; name → address."""
    for name, node in (("a1", "node-1"), ("a2", "node-1"), ("b1", "node-2")):
        local.run("run", name, "--image", "agnhost", "--port", "8080", "--node", node, "--wait")
    listed = local.json("get", "pods")
    return {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in listed["items"]}


def test_up_again_changes_nothing(local: Local) -> None:
    def daemons() -> list[Any]:  # not all processes: agents make sandboxes ahead while they are idle
        return [local.supervisor, *(local.processes(node) for node in ("node-1", "node-2", "node-3"))]

    before = daemons()
    revision = local.json("status")["revision"]
    local.run("up")
    assert daemons() == before
    assert local.json("status")["revision"] == revision


def test_status_says_how_nodes_run(local: Local) -> None:
    nodes = local.json("status")["nodes"]
    assert [node["name"] for node in nodes] == ["node-1", "node-2", "node-3"]
    assert all(node["ready"] and node["driverState"] == "running" for node in nodes)
    expected = "privileged" if os.geteuid() == 0 else "user-namespace"
    assert {node["privileges"] for node in nodes} == {expected}


def test_every_pod_reaches_every_pod(local: Local, pods: dict[str, str]) -> None:
    assert "6 of 6 pairs" in local.run("test", "pingall").stdout
    assert "6 of 6 pairs" in local.run("test", "pingall", "--tcp", "8080").stdout
    assert local.run("test", "pingall", "--tcp", "9999", code=1).stdout.count("FAIL (refused)") == 6


def test_the_network_model_holds_and_its_pods_go(local: Local) -> None:
    result = local.json("test", "network")
    assert result["ok"], result
    assert not [one for one in local.json("get", "ns")["items"] if one["metadata"]["name"].startswith("podwire-test")]


def test_a_receiver_sees_the_senders_own_address(local: Local, pods: dict[str, str]) -> None:
    done = local.run("exec", "a1", "--", "curl", "-s", f"http://{pods['b1']}:8080/clientip")
    assert done.stdout.rpartition(":")[0] == pods["a1"]


def test_exec_gives_streams_and_exit_code(local: Local, pods: dict[str, str]) -> None:
    done = local.run("exec", "a1", "-i", "--", "sh", "-c", "cat; echo bad >&2; exit 7", code=7, stdin="good\n")
    assert (done.stdout, done.stderr) == ("good\n", "bad\n")


def test_manifests_are_applied_whole_or_not(local: Local, tmp_path: Path) -> None:
    file = tmp_path / "pods.yaml"
    pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: %s, labels: {x: y}}\nspec: {containers: [{name: c, image: nginx}]}\n"
    file.write_text(pod % "m1" + "---\n" + pod % "m2")
    assert local.run("apply", "-f", str(file), "--wait").stdout == "pod/m1 created\npod/m2 created\n"
    version = local.json("get", "pod/m1")["metadata"]["resourceVersion"]
    assert local.run("apply", "-f", str(file)).stdout == "pod/m1 unchanged\npod/m2 unchanged\n"
    assert local.json("get", "pod/m1")["metadata"]["resourceVersion"] == version
    assert "stand-in" in local.run("get", "pods").stdout
    file.write_text((pod % "m1").replace("labels: {x: y}", "labels: {}"))
    assert local.run("apply", "-f", str(file)).stdout == "pod/m1 configured\n"
    assert (
        "labels" not in local.json("get", "pod/m1")["metadata"] or not local.json("get", "pod/m1")["metadata"]["labels"]
    )
    file.write_text(pod % "m3" + "---\napiVersion: v1\nkind: Unicorn\nmetadata: {name: u}\n")
    error = local.run("apply", "-f", str(file), code=1).stderr
    assert error.startswith(f"error: {file}")
    assert "Unicorn" in error
    local.run("get", "pod/m3", code=1)
    local.run("delete", "pods", "m1", "m2", "--force")


def test_nodes_come_and_go(local: Local, pods: dict[str, str]) -> None:
    local.run("node", "add", "extra", "--zone", "z9", "--labels", "disk=fast")
    node = local.json("get", "node/extra")
    assert node["metadata"]["labels"]["topology.kubernetes.io/zone"] == "z9"
    local.run("run", "far", "--image", "agnhost", "--node", "extra", "--wait")
    assert "12 of 12 pairs" in local.run("test", "pingall").stdout
    local.run("node", "add", "extra", code=1)
    everything = set(local.processes("extra").values())
    local.run("node", "delete", "extra")
    assert not alive(everything)
    local.run("get", "node/extra", code=1)
    local.run("node", "delete", "extra", code=1)
    eventually(lambda: "far" not in local.run("get", "pods", "-o", "name").stdout, "the pod of a deleted node stays")


def test_a_paused_node_stands_still_and_its_pods_answer_on(local: Local, pods: dict[str, str]) -> None:
    """Processes stop; the kernel goes on, as with a container that is paused."""
    agent = local.processes("node-2")["agent"]
    local.run("node", "pause", "node-2")
    assert Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    local.run("exec", "a1", "--", "ping", "-c1", "-W2", pods["b1"])
    local.run("node", "resume", "node-2")
    assert "6 of 6 pairs" in local.run("test", "pingall").stdout


def test_pods_of_a_restarted_node_keep_their_addresses(local: Local, pods: dict[str, str]) -> None:
    local.run("node", "restart", "node-1")
    local.run("wait", "pods", "a1", "a2", "--for=condition=Ready", "--timeout=10s")
    assert {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in local.json("get", "pods")["items"]} == pods
    assert "6 of 6 pairs" in local.run("test", "pingall", "--tcp", "8080").stdout


@pytest.mark.parametrize("victim", ["agent", "workload", "helper"])
def test_what_is_killed_in_a_node_is_started_again(local: Local, pods: dict[str, str], victim: str) -> None:
    before = local.processes("node-1")
    os.kill(before[victim], signal.SIGKILL)
    eventually(lambda: local.processes("node-1")[victim] != before[victim], f"{victim} is not started again")
    assert local.processes("node-1")["init"] == before["init"]
    local.run("wait", "pods", "a1", "a2", "--for=condition=Ready", "--timeout=10s")
    assert "6 of 6 pairs" in local.run("test", "pingall").stdout


def test_the_controllers_death_is_not_the_pods(local: Local, pods: dict[str, str]) -> None:
    comm = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in processes.below(local.supervisor)}
    (controller,) = [pid for pid, name in comm.items() if name == "podwire-control"]
    os.kill(controller, signal.SIGKILL)
    local.run("up")
    local.run("wait", "pods", "--all", "--for=condition=Ready", "--timeout=10s")
    assert {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in local.json("get", "pods")["items"]} == pods


def test_nothing_outlives_a_killed_supervisor_and_up_brings_it_back(local: Local, pods: dict[str, str]) -> None:
    everything = local.everything()
    os.kill(local.supervisor, signal.SIGKILL)
    eventually(lambda: not alive(everything), "processes outlive their supervisor")
    local.run("get", "pods", code=3)
    local.run("node", "add", "late", code=3)
    local.run("up")
    local.run("wait", "pods", "--all", "--for=condition=Ready", "--timeout=15s")
    assert {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in local.json("get", "pods")["items"]} == pods
    assert "6 of 6 pairs" in local.run("test", "pingall", "--tcp", "8080").stdout


def test_clusters_live_side_by_side(local: Local, pods: dict[str, str], tmp_path: Path) -> None:
    document = tmp_path / "other.yaml"
    document.write_text(
        "apiVersion: podwire.dev/v1alpha1\nkind: Cluster\nmetadata: {name: test-other}\nspec: {nodes: [{name: x}, {name: y}]}\n"
        "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: agnhost}]}\n"
    )
    other = Local("test-other")
    try:
        other.run("up", "-f", str(document), "--driver", "local")
        other.run("wait", "pod/p", "--for=condition=Ready")
        assert [node["metadata"]["name"] for node in other.json("get", "nodes")["items"]] == ["x", "y"]
        assert len(local.json("get", "pods")["items"]) == len(pods)
    finally:
        other.run("down")
    assert "6 of 6 pairs" in local.run("test", "pingall").stdout


def test_a_document_that_contradicts_the_cluster_is_refused(local: Local, tmp_path: Path) -> None:
    document = tmp_path / "cluster.yaml"
    head = "apiVersion: podwire.dev/v1alpha1\nkind: Cluster\nmetadata: {name: test-local}\n"
    for spec, message in (
        ("spec: {podCIDR: 10.7.0.0/16}", "cannot be changed"),
        ("spec: {podCIDR: 10.96.0.0/16}", "overlaps"),
        ("spec: {nodes: many}", "spec.nodes"),
        ("spec: {network: {plugin: calico}}", "not supported yet"),
    ):
        document.write_text(head + spec)
        error = local.run("up", "-f", str(document), code=1).stderr
        assert error.startswith("error: ")
        assert message in error
    local.run("up", "--driver", "docker", code=1)


def test_down_of_what_is_not_there_is_fine(own_state: Path) -> None:
    assert "There is no cluster" in Local("test-nothing").run("down").stderr
