"""The examples, in the shape of the Kubernetes documentation's: applied as they are, they come up as they would there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from podwire.client import ControlClient
from podwire.model.manifests import load_manifests
from tests.cluster import pods
from tests.cluster.commandline import CommandLine
from tests.cluster.harness import Cluster, eventually

pytestmark = pytest.mark.cluster

EXAMPLES = Path(__file__).parents[2] / "examples" / "pods"
NAMESPACE = "examples"

# Where each pod ends up: phase, whether it is Ready, and what of it is a stand-in.
ENDS = {
    "web-with-helper": ("Running", True, ""),
    "app-with-init": ("Running", True, "app"),
    "probed-by-http": ("Running", True, ""),
    "probed-by-tcp": ("Running", True, "cache"),
    "knows-itself": ("Running", True, ""),
    "has-aliases": ("Running", True, ""),
    "has-own-dns": ("Running", True, "test"),
    "by-selector": ("Running", True, "nginx"),
    "by-affinity": ("Running", True, ""),
    "frontend": ("Running", True, "app"),
    "succeeds": ("Succeeded", False, ""),
    "fails": ("Failed", False, ""),
    "nginx": ("Running", True, "nginx"),
    "redis": ("Running", True, "redis"),
    "busybox": ("Running", True, "busybox"),
    "echo-udp": ("Running", True, "echo"),
    "leaves-politely": ("Running", True, ""),
}
RESTARTING = {"probed-by-exec", "tries-again"}

LOGS = {
    "web-with-helper -c helper": "met on localhost",
    "app-with-init -c prepare": "prepared",
    "app-with-init -c wait-for-hosts": "app-with-init",
    "has-aliases": "127.0.0.1\tfoo.local\tbar.local\n10.1.2.3\tfoo.remote\nbusy\n",
    "has-aliases -c cat-hosts": "busy.default-subdomain.examples.svc.cluster.local\tbusy",
    "succeeds": "done",
    "fails": "gave up",
    "nginx": "serves TCP port 80",
    "echo-udp": "serves UDP port 7",
    "leaves-politely": "up",
}


def documents() -> list[dict[str, Any]]:
    return [each.document for each in load_manifests([str(EXAMPLES)], read_stdin=str)]


@pytest.fixture(scope="module")
def applied(local_cluster: Cluster) -> Iterator[CommandLine]:
    """All of them in a namespace of their own, which goes with them."""
    podwire = CommandLine(local_cluster.spec.name)
    namespace = f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n"
    podwire.run("apply", "-f", "-", stdin=namespace)
    podwire.run("apply", "-n", NAMESPACE, "-f", str(EXAMPLES))
    yield podwire
    podwire.run("delete", "namespace", NAMESPACE, "--grace-period=1")
    assert podwire.json("get", "pods", "-n", NAMESPACE)["items"] == []


@pytest.fixture
async def client(local_cluster: Cluster) -> AsyncIterator[ControlClient]:
    async with local_cluster.client() as made:
        yield made


def outcome(document: dict[str, Any]) -> tuple[str, bool, str]:
    conditions = {each["type"]: each for each in document["status"].get("conditions", [])}
    stand_in = conditions.get("podwire.dev/StandIn", {})
    message = stand_in.get("message", "") if stand_in.get("status") == "True" else ""
    return document["status"]["phase"], pods.is_ready(document), message.rpartition(": ")[2]


def test_the_tables_are_about_all_examples() -> None:
    assert {each["metadata"]["name"] for each in documents()} == {*ENDS, *RESTARTING}


async def test_every_pod_gets_where_it_should(applied: CommandLine, client: ControlClient) -> None:
    """Ready, ended or starting again; and what answers in the place of an image says so."""
    found: dict[str, tuple[str, bool, str]] = {}

    async def all_there() -> bool:
        listed = (await client.list("pods", namespace=NAMESPACE)).documents
        found.update({each["metadata"]["name"]: outcome(each) for each in listed})
        return all(found[name] == end for name, end in ENDS.items())

    with suppress(AssertionError):
        await eventually(all_there, "see below", within_s=20.0)
    assert {name: found[name] for name in ENDS} == ENDS

    async def both_restarted() -> bool:
        restarts = [
            (await client.get("pods", name, namespace=NAMESPACE))["status"]["containerStatuses"][0]["restartCount"]
            for name in RESTARTING
        ]
        return all(count >= 1 for count in restarts)

    await eventually(both_restarted, "nothing was restarted", within_s=20.0)


@pytest.mark.parametrize("what", LOGS)
async def test_logs_are_what_the_commands_say(applied: CommandLine, what: str) -> None:
    shown = ""

    async def said() -> bool:
        nonlocal shown
        try:
            done = await asyncio.to_thread(applied.run, "logs", "-n", NAMESPACE, *what.split())
        except AssertionError:  # it has not begun
            return False
        shown = done.stdout
        return LOGS[what] in shown

    with suppress(AssertionError):
        await eventually(said, "see below", within_s=15.0)
    assert LOGS[what] in shown


def test_the_downward_api_is_told(applied: CommandLine) -> None:
    """As variables of the container; what a network twin has no answer to is left unset."""
    pod = applied.json("get", "pod", "knows-itself", "-n", NAMESPACE)
    seen = applied.run("exec", "-n", NAMESPACE, "knows-itself", "--", "env").stdout.splitlines()
    expected = {
        "GREETING": "hello world",
        "MY_NODE_NAME": pod["spec"]["nodeName"],
        "MY_POD_NAME": "knows-itself",
        "MY_POD_NAMESPACE": NAMESPACE,
        "MY_POD_IP": pod["status"]["podIP"],
        "MY_HOST_IP": pod["status"]["hostIP"],
        "MY_SERVICE_ACCOUNT": "default",
        "MY_TIER": "front",
        "MY_BUILD": "two",
    }
    assert {line for line in seen if line.startswith(("MY_", "GREETING"))} == {f"{k}={v}" for k, v in expected.items()}


def test_a_pods_own_dns_is_its_resolv_conf(applied: CommandLine) -> None:
    shown = applied.run("exec", "-n", NAMESPACE, "has-own-dns", "--", "cat", "/etc/resolv.conf").stdout
    assert shown == (
        "nameserver 192.0.2.1\nsearch ns1.svc.cluster-domain.example my.dns.search.suffix\noptions ndots:2 edns0\n"
    )


def test_stand_ins_are_marked_everywhere(applied: CommandLine) -> None:
    """In `get`, `describe` and `status`: nobody should take one for the real thing."""
    table = applied.run("get", "pods", "-n", NAMESPACE).stdout.splitlines()
    marked = {line.split()[0] for line in table if "(stand-in)" in line}
    assert marked == {name for name, end in ENDS.items() if end[2]}
    assert "Stand-in:" in applied.run("describe", "pod", "nginx", "-n", NAMESPACE).stdout
    assert f"{len(marked)} with stand-ins" in applied.run("status").stdout


def test_stand_ins_answer_on_their_ports(applied: CommandLine) -> None:
    """HTTP on TCP, an echo on UDP, from a pod that may be on another node."""
    addresses = {
        each["metadata"]["name"]: each["status"]["podIP"]
        for each in applied.json("get", "pods", "-n", NAMESPACE)["items"]
    }
    curl = applied.run(
        "exec", "-n", NAMESPACE, "knows-itself", "--", "curl", "-s", f"http://{addresses['nginx']}"
    ).stdout
    assert "stand-in: pod examples/nginx, container nginx, image nginx:1.14.2, port 80" in curl
    script = f"echo hello | timeout 2 nc -u -w1 {addresses['echo-udp']} 7"
    assert "hello" in applied.run("exec", "-n", NAMESPACE, "knows-itself", "--", "sh", "-c", script).stdout


def test_everything_we_emit_is_valid_kubernetes(applied: CommandLine) -> None:
    """By the schemas of Kubernetes itself, strictly: no field of ours stands where none may."""
    emitted = applied.json("get", "pods,nodes,namespaces,events", "-A")["items"]
    assert {each["kind"] for each in emitted} == {"Pod", "Node", "Namespace", "Event"}
    for document in emitted:
        kubernetes_validate.validate(document, "1.33", strict=True)
    listed = applied.json("get", "pods", "-n", NAMESPACE)
    assert (listed["apiVersion"], listed["kind"]) == ("v1", "List")


def test_what_get_prints_can_be_applied(applied: CommandLine) -> None:
    """`get -o yaml | apply -f -` changes nothing, and neither does applying the files again."""

    def versions() -> dict[str, str]:
        listed = applied.json("get", "pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/name=app")["items"]
        return {each["metadata"]["name"]: each["metadata"]["generation"] for each in listed}

    before = versions()
    printed = applied.run("get", "pod", "app-with-init", "-n", NAMESPACE, "-o", "yaml").stdout
    applied.run("apply", "-f", "-", stdin=printed)
    again = applied.run("apply", "-n", NAMESPACE, "-f", str(EXAMPLES / "stand-ins.yaml")).stdout
    assert {line.split()[-1] for line in again.splitlines()} == {"unchanged"}
    assert versions() == before
