"""The command line against a cluster in memory: what is printed where, and which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from podwire.api.v1 import control_pb2 as control
from podwire.api.v1 import node_agent_pb2 as agent
from podwire.api.v1 import state_pb2 as state
from podwire.cli.main import VERBS
from podwire.client import Event
from podwire.errors import InvalidInput
from tests.unit.cli_world import World

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    monkeypatch.delenv("PODWIRE_CLUSTER", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return World()


def test_every_verb_has_help(world: World, capsys: Capture) -> None:
    for verb in VERBS:
        assert world.podwire(verb, "--help") == 0
        assert "Usage: podwire" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    """`--help` takes a tenth of a second because gRPC, rich, YAML and asyncio are not imported for it."""
    code = (
        "import sys; from podwire.cli.main import run; run(['--help']); run(['get', '--help']);"
        "print([m for m in ('grpc', 'rich', 'yaml', 'asyncio', 'docker', 'msgspec', 'cryptography') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


class TestGet:
    """`get`."""

    def test_a_table_like_kubectls(self, world: World, capsys: Capture) -> None:
        world.pod("web")
        world.pod("db", ready=False, ip="10.244.2.2")
        assert world.podwire("get", "po") == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
        assert lines[1].split()[:4] == ["db", "0/1", "Running", "0"]

    def test_wide_shows_address_and_node(self, world: World, capsys: Capture) -> None:
        world.pod("web")
        assert world.podwire("get", "pods", "-o", "wide") == 0
        assert capsys.readouterr().out.splitlines()[1].split()[-2:] == ["10.244.1.2", "node-1"]

    def test_json_of_several_is_a_list_and_nothing_else_is_printed(self, world: World, capsys: Capture) -> None:
        world.pod("web")
        assert world.podwire("get", "pods", "-o", "json") == 0
        document = json.loads(capsys.readouterr().out)
        assert document["kind"] == "List"
        assert [item["metadata"]["name"] for item in document["items"]] == ["web"]

    def test_json_of_one_is_the_object(self, world: World, capsys: Capture) -> None:
        world.pod("web")
        assert world.podwire("get", "pod/web", "-o", "json") == 0
        assert json.loads(capsys.readouterr().out)["kind"] == "Pod"

    def test_an_empty_list_is_still_json(self, world: World, capsys: Capture) -> None:
        assert world.podwire("get", "pods", "-o", "json") == 0
        assert json.loads(capsys.readouterr().out)["items"] == []

    def test_several_kinds_carry_their_prefix(self, world: World, capsys: Capture) -> None:
        world.pod("web")
        world.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}})
        assert world.podwire("get", "po,no") == 0
        out = capsys.readouterr().out
        assert "pod/web" in out
        assert "node/node-1" in out

    def test_names_and_templates(self, world: World, capsys: Capture) -> None:
        world.pod("web")
        assert world.podwire("get", "pods", "-o", "name") == 0
        assert world.podwire("get", "pods", "-o", "jsonpath={.items[*].status.podIP}") == 0
        assert world.podwire("get", "pods", "-o", "custom-columns=POD:.metadata.name,IP:.status.podIP") == 0
        assert capsys.readouterr().out.split() == ["pod/web", "10.244.1.2", "POD", "IP", "web", "10.244.1.2"]

    def test_all_namespaces_adds_a_column(self, world: World, capsys: Capture) -> None:
        world.pod("web", metadata={"namespace": "shop"})
        assert world.podwire("get", "pods", "-A") == 0
        assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["shop", "web"]

    def test_nothing_found_is_said_on_standard_error(self, world: World, capsys: Capture) -> None:
        assert world.podwire("get", "pods") == 0
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err == "No pods found in namespace 'default'.\n"

    def test_a_watch_prints_a_row_per_change(self, world: World, capsys: Capture) -> None:
        pod = world.pod("web")
        world.script["pods"] = [Event("ADDED", pod, 1), Event("BOOKMARK", {}, 2), Event("MODIFIED", pod, 3)]
        assert world.podwire("get", "pods", "-w") == 0
        assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["NAME", "web", "web"]


class TestErrors:
    """One sentence, the right exit code."""

    def test_what_is_not_there(self, world: World, capsys: Capture) -> None:
        assert world.podwire("get", "pod", "web") == 1
        assert capsys.readouterr().err == "error: there is no pods 'web'\n"

    @pytest.mark.parametrize(
        "argv",
        [
            ("get",),
            ("get", "unicorns"),
            ("get", "pods", "-o", "xml"),
            ("get", "pods", "-o", "jsonpath={"),
            ("get", "pod/web", "db"),
            ("frobnicate",),
            ("wait", "pod/web", "--for=happiness"),
            ("wait", "pods", "--for=delete"),
            ("label", "pod", "web"),
            ("label", "pod", "web", "a b=c"),
            ("delete", "pods"),
            ("run", "web", "--env", "NOVALUE"),
            ("apply",),
            ("--cluster", "No Such", "get", "pods"),
            ("wait", "pod/web", "--for=delete", "--timeout=soon"),
        ],
    )
    def test_wrong_usage_is_2(self, world: World, capsys: Capture, argv: tuple[str, ...]) -> None:
        assert world.podwire(*argv) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert "Traceback" not in captured.err

    def test_an_unreachable_cluster_is_3(self, world: World, capsys: Capture) -> None:
        world.reachable = False
        assert world.podwire("get", "pods") == 3
        assert capsys.readouterr().err == "error: cluster 'podwire' is not reachable\nhint: is it up? try: podwire up\n"

    def test_a_cluster_that_was_never_made_is_3(self, world: World, capsys: Capture) -> None:
        from podwire.cli.main import run

        assert run(["get", "pods"]) == 3
        assert "make one with: podwire up" in capsys.readouterr().err


class TestApply:
    """`apply` and `delete`."""

    POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: web, image: agnhost}]}\n"

    def test_says_what_became_of_each(self, world: World, capsys: Capture, tmp_path: Path) -> None:
        file = tmp_path / "web.yaml"
        file.write_text(self.POD)
        assert world.podwire("apply", "-f", str(file)) == 0
        assert world.podwire("apply", "-f", str(file)) == 0
        assert capsys.readouterr().out == "pod/web created\npod/web configured\n"

    def test_bad_yaml_changes_nothing(self, world: World, capsys: Capture, tmp_path: Path) -> None:
        file = tmp_path / "web.yaml"
        file.write_text(self.POD + "---\na: [")
        assert world.podwire("apply", "-f", str(file)) == 1
        assert "web.yaml: line 7, column 1" in capsys.readouterr().err
        assert world.calls == []

    def test_a_refused_document_is_named_with_its_file(self, world: World, capsys: Capture, tmp_path: Path) -> None:
        file = tmp_path / "web.yaml"
        file.write_text(self.POD)
        world.failure = InvalidInput("spec.containers: must not be empty", field="spec.containers")
        assert world.podwire("apply", "-f", str(file)) == 1
        assert f"error: {file}: spec.containers: must not be empty" in capsys.readouterr().err

    def test_waits_until_pods_are_ready(self, world: World, tmp_path: Path) -> None:
        file = tmp_path / "web.yaml"
        file.write_text(self.POD)
        ready: dict[str, Any] = {
            "metadata": {"name": "web"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }
        world.script["pods"] = [Event("MODIFIED", ready, 8)]
        assert world.podwire("apply", "-f", str(file), "--wait") == 0

    def test_a_wait_that_is_over_is_1(self, world: World, capsys: Capture, tmp_path: Path) -> None:
        file = tmp_path / "web.yaml"
        file.write_text(self.POD)
        assert world.podwire("apply", "-f", str(file), "--wait", "--timeout", "50ms") == 1
        assert "did not hold for pod/web" in capsys.readouterr().err

    def test_delete_by_file_name_and_label(self, world: World, capsys: Capture, tmp_path: Path) -> None:
        file = tmp_path / "web.yaml"
        file.write_text(self.POD)
        for name in ("web", "db", "cache"):
            world.pod(name, metadata={"labels": {"tier": "back"}} if name != "web" else {})
        assert world.podwire("delete", "-f", str(file)) == 0
        assert world.podwire("delete", "pods", "-l", "tier=back", "--force") == 0
        assert capsys.readouterr().out == 'pod "web" deleted\npod "cache" deleted\npod "db" deleted\n'
        assert ("delete", ("pods", "default", "db", 0)) in world.calls
        assert world.objects == {}

    def test_deleting_what_is_not_there(self, world: World) -> None:
        assert world.podwire("delete", "pod", "web") == 1
        assert world.podwire("delete", "pod", "web", "--ignore-not-found") == 0


class TestRun:
    """`run`, `exec`, `logs`, `label`, `wait`, `describe`."""

    def test_run_with_an_image(self, world: World, capsys: Capture) -> None:
        assert world.podwire("run", "web", "--image", "agnhost", "--port", "80", "--labels", "a=b", "--env", "K=v") == 0
        pod = world.objects[("pods", "default", "web")]
        assert pod["spec"]["containers"] == [
            {
                "name": "web",
                "image": "agnhost",
                "args": ["netexec", "--http-port=80"],
                "ports": [{"containerPort": 80}],
                "env": [{"name": "K", "value": "v"}],
            }
        ]
        assert pod["metadata"]["labels"] == {"a": "b"}
        assert capsys.readouterr().out == "pod/web created\n"

    def test_run_with_a_command_uses_the_shell_image(self, world: World) -> None:
        assert world.podwire("run", "box", "--node", "node-2", "--", "sleep", "--help") == 0
        spec = world.objects[("pods", "default", "box")]["spec"]
        assert spec["containers"][0] == {"name": "box", "image": "podwire/shell", "command": ["sleep", "--help"]}
        assert spec["nodeName"] == "node-2"

    def test_run_twice(self, world: World, capsys: Capture) -> None:
        assert world.podwire("run", "box", "--", "sleep", "1") == 0
        assert world.podwire("run", "box", "--", "sleep", "1") == 1
        assert "error: pod 'box' exists" in capsys.readouterr().err

    def test_exec_hands_on_output_and_exit_code(self, world: World, capfd: pytest.CaptureFixture[str]) -> None:
        world.exec_answers = [
            agent.ExecResponse(stdout=b"out"),
            agent.ExecResponse(stderr=b"err"),
            agent.ExecResponse(exit=agent.ExecExit(code=42)),
        ]
        assert world.podwire("exec", "web", "--", "sh", "-c", "exit 42") == 42
        captured = capfd.readouterr()
        assert (captured.out, captured.err) == ("out", "err")
        start = world.calls[0][1]
        assert list(start.argv) == ["sh", "-c", "exit 42"]

    def test_exec_that_cannot_start_has_the_shells_code(self, world: World, capsys: Capture) -> None:
        world.exec_answers = [agent.ExecResponse(exit=agent.ExecExit(code=127, error="no such file"))]
        assert world.podwire("exec", "web", "--", "nosuch") == 127
        assert capsys.readouterr().err == "error: pod web: no such file\n"

    def test_logs_are_bytes(self, world: World, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
        world.log = [b"one\n", b"\xff\n"]
        assert world.podwire("logs", "pod/web", "--tail", "5", "--previous") == 0
        assert capfdbinary.readouterr().out == b"one\n\xff\n"
        assert world.calls[0][1]["tail_lines"] == 5

    def test_labels_change_only_with_overwrite(self, world: World, capsys: Capture) -> None:
        world.pod("web", metadata={"labels": {"tier": "front", "old": "x"}})
        assert world.podwire("label", "pod", "web", "tier=back") == 1
        assert "change it with --overwrite" in capsys.readouterr().err
        assert world.podwire("label", "pod", "web", "tier=back", "old-", "--overwrite") == 0
        assert world.objects[("pods", "default", "web")]["metadata"]["labels"] == {"tier": "back"}
        assert world.podwire("label", "pod/web", "tier=back") == 0
        assert capsys.readouterr().out == "pod/web labeled\npod/web not labeled\n"

    def test_wait_for_what_holds_already(self, world: World, capsys: Capture) -> None:
        world.pod("web")
        assert world.podwire("wait", "pod/web", "--for=condition=Ready") == 0
        assert world.podwire("wait", "pod/web", "--for=jsonpath={.status.phase}=Running") == 0
        assert world.podwire("wait", "pod/gone", "--for=delete") == 0
        assert capsys.readouterr().out == "pod/web condition met\npod/web condition met\npod/gone deleted\n"

    def test_wait_for_what_is_not_there_is_1(self, world: World, capsys: Capture) -> None:
        assert world.podwire("wait", "pod/web", "--for=condition=Ready") == 1
        assert "there is no pod 'web' in namespace 'default'" in capsys.readouterr().err

    def test_describe_shows_events_of_this_very_object(self, world: World, capsys: Capture) -> None:
        world.pod("web")
        for uid, message in (("uid-web", "started"), ("uid-former", "an earlier pod's")):
            world.put(
                {
                    "apiVersion": "v1",
                    "kind": "Event",
                    "metadata": {"name": f"web.{uid}"},
                    "involvedObject": {"kind": "Pod", "name": "web", "uid": uid},
                    "type": "Normal",
                    "reason": "Started",
                    "message": message,
                    "lastTimestamp": "2026-01-01T00:00:00Z",
                }
            )
        assert world.podwire("describe", "pod", "web") == 0
        out = capsys.readouterr().out
        assert "Node:            node-1" in out
        assert "started" in out
        assert "an earlier" not in out


class TestTest:
    """`test` and `status`."""

    def test_pingall_says_no_with_1(self, world: World, capsys: Capture) -> None:
        for number in range(3):
            world.pod(f"p{number}", ip=f"10.244.1.{number + 2}")
        assert world.podwire("test", "pingall") == 0
        assert "6 of 6 pairs reach each other." in capsys.readouterr().out
        world.unanswered = {"10.244.1.3"}
        assert world.podwire("test", "pingall", "--tcp", "80") == 1
        out = capsys.readouterr().out
        assert "FAIL (timeout)" in out
        assert "4 of 6 pairs" in out

    def test_pingall_needs_two_pods(self, world: World) -> None:
        assert world.podwire("test", "pingall") == 1

    def test_status_as_table_and_document(self, world: World, capsys: Capture) -> None:
        world.nodes = [
            control.NodeStatus(
                name="node-1", ready=True, connected=True, revision_applied=7, pod_cidrs=["10.244.1.0/24"], privileges="privileged",
                degraded=["no br_netfilter"],
                capabilities=[state.Capability(name="sctp"), state.Capability(name="vxlan", available=True)],
            ),
            control.NodeStatus(name="node-2", reason="NodeStatusUnknown"),
        ]  # fmt: skip
        assert world.podwire("status") == 0
        out = capsys.readouterr().out
        assert "Cluster podwire: 1/2 nodes ready" in out
        assert "  node-1: no br_netfilter" in out
        assert "Kernels without:\n  node-1: sctp\n" in out
        assert world.podwire("status", "-o", "json") == 0
        assert [node["ready"] for node in json.loads(capsys.readouterr().out)["nodes"]] == [True, False]


def test_completion_scripts_name_the_program(world: World, capsys: Capture) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert world.podwire("completion", shell) == 0
        assert "_PODWIRE_COMPLETE" in capsys.readouterr().out


def test_quiet_leaves_errors_and_results(world: World, capsys: Capture) -> None:
    assert world.podwire("--quiet", "get", "pods") == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


@pytest.mark.parametrize("group", ["node", "test"])
def test_a_group_without_its_verb_shows_its_help(world: World, capsys: Capture, group: str) -> None:
    """The help, as it is, and the exit code of wrong usage."""
    assert world.podwire(group) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"Usage: podwire {group}")


def test_an_empty_image_is_refused(world: World, capsys: Capture) -> None:
    assert world.podwire("run", "x", "--image", "") == 2
    assert "--image: the name of an image is empty" in capsys.readouterr().err
