"""The local driver as somebody without rights: in a user namespace where the kernel allows it, else one sentence that says why not."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from podwire.drivers.local import control, layout, processes
from podwire.drivers.local.facts import collect
from tests.cluster import nobody
from tests.cluster.commandline import CommandLine

pytestmark = pytest.mark.cluster

CLUSTER = "test-nobody"
DOCUMENT = f"""
apiVersion: podwire.dev/v1alpha1
kind: Cluster
metadata: {{name: {CLUSTER}}}
spec: {{nodes: [{{name: a, zone: z1}}, {{name: b, zone: z2}}], podCIDRv6: fd00:77::/48}}
---
apiVersion: v1
kind: Pod
metadata: {{name: web}}
spec: {{nodeName: a, containers: [{{name: web, image: agnhost, args: [netexec]}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: shell}}
spec: {{nodeName: b, containers: [{{name: shell, image: podwire/shell, command: [sh, -c, "echo hello; exec sleep infinity"]}}]}}
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home of nobody's own; pytest's temporary directories are closed to others."""
    directory = Path(tempfile.mkdtemp(prefix="podwire-"))
    if os.geteuid() == 0:
        os.chown(directory, nobody.NOBODY, nobody.NOBODY)
    yield directory
    shutil.rmtree(directory)


def command_line(home: Path, *flags: str, cluster: str = CLUSTER) -> CommandLine:
    readable = [sys.base_prefix, sys.prefix, str(Path(nobody.__file__).parents[2])]
    program = [sys.executable, nobody.__file__, *flags, *(f"--readable={path}" for path in readable), "--"]
    environment = {"HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "DOCKER_HOST": "unix:///nowhere"}
    return CommandLine(cluster, program, environment)


@pytest.fixture(scope="module")
def unprivileged(home: Path) -> Iterator[CommandLine]:
    """Two nodes and two pods, made by nobody."""
    if lacking := [f"{fact.name}: {fact.value}" for fact in collect() if not fact.ok]:
        pytest.skip(f"the local driver cannot work here: {lacking[0]}")
    command = command_line(home)
    facts = {fact["name"]: fact for fact in command.json("doctor")["facts"] if fact["area"] == "local"}
    if not facts["namespaces"]["ok"]:
        pytest.skip(f"unprivileged users get no namespaces here: {facts['namespaces']['found']}")
    document = home / "cluster.yaml"
    document.write_text(DOCUMENT)
    document.chmod(0o644)
    try:
        command.run("up", "--driver", "local", "-f", str(document))
        command.run("wait", "pods", "--all", "--for=condition=Ready", "--timeout=20s")
        yield command
    finally:
        command.run("down")
    assert not (home / "state" / "podwire" / CLUSTER).exists()


def test_status_and_doctor_say_which_privileges(unprivileged: CommandLine) -> None:
    assert {node["privileges"] for node in unprivileged.json("status")["nodes"]} == {"user-namespace"}
    doctor = unprivileged.json("doctor")
    assert doctor["usableDrivers"] == ["local"]
    facts = {fact["name"]: fact["found"] for fact in doctor["facts"]}
    assert (facts["user"], facts["namespaces"]) == ("not root", "in a user namespace")


def test_no_process_of_the_cluster_has_more_rights_than_its_user(unprivileged: CommandLine, home: Path) -> None:
    paths = layout.Layout(home / "state" / "podwire" / CLUSTER)
    supervisor = processes.parent(control.call(paths.control_socket, "nodes")[0]["processes"]["init"])
    everything = {supervisor, *processes.below(supervisor)}
    assert len(everything) >= 8
    owners = {Path(f"/proc/{pid}").stat().st_uid for pid in everything}
    assert owners == {os.geteuid() or nobody.NOBODY}


def test_the_network_model_holds_over_both_families(unprivileged: CommandLine) -> None:
    verdicts = unprivileged.json("test", "network")
    assert verdicts["ok"], verdicts
    assert "2 of 2 pairs reach each other, over IPv4 and IPv6." in unprivileged.run("test", "pingall").stdout


def test_commands_run_and_their_logs_are_read(unprivileged: CommandLine) -> None:
    assert unprivileged.run("logs", "shell").stdout == "hello\n"
    address = unprivileged.json("get", "pod/web")["status"]["podIP"]
    done = unprivileged.run(
        "exec", "shell", "-i", "--", "sh", "-c", f"cat; ping -c1 -W2 {address} >&2; exit 7", code=7, stdin="in\n"
    )
    assert done.stdout == "in\n"
    assert " 0% packet loss" in done.stderr


def test_a_node_restarts_and_another_comes(unprivileged: CommandLine) -> None:
    before = unprivileged.json("get", "pod/web")["status"]["podIPs"]
    unprivileged.run("node", "restart", "a")
    unprivileged.run("wait", "pod/web", "--for=condition=Ready", "--timeout=10s")
    assert unprivileged.json("get", "pod/web")["status"]["podIPs"] == before
    unprivileged.run("node", "add", "c")
    unprivileged.run("run", "late", "--image", "agnhost", "--node", "c", "--wait")
    assert "6 of 6 pairs" in unprivileged.run("test", "pingall").stdout
    unprivileged.run("node", "delete", "c")


def test_where_the_kernel_refuses_one_sentence_says_so(home: Path) -> None:
    refused = command_line(home, "--no-user-namespaces", cluster="test-refused")
    error = refused.run("up", "--driver", "local", code=1).stderr.splitlines()
    assert error[-2:] == [
        "error: the local driver needs root or user namespaces, and this kernel refuses them here (their number is limited)",
        "hint: raise the limit: sudo sysctl user.max_user_namespaces=15000",
    ]
    facts = {fact["name"]: fact for fact in refused.json("doctor", code=1)["facts"] if fact["area"] == "local"}
    assert not facts["namespaces"]["ok"]
    assert facts["namespaces"]["fix"] == "raise the limit: sudo sysctl user.max_user_namespaces=15000"
    assert "There is no cluster" in refused.run("down").stderr
