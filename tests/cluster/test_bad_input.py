"""Bad input of every kind, against a cluster that is up: one sentence, the right exit code, and nothing lost."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from podwire.cli.app import App
from podwire.cli.main import run
from podwire.seams import SystemClock
from tests.cluster import pods
from tests.cluster.harness import Cluster, cluster_spec, eventually, held

pytestmark = pytest.mark.cluster

Capture = pytest.CaptureFixture[str]
Podwire = Callable[..., int]

GOOD = pods.pod("good", "a")


def manifest(*documents: Any) -> str:
    return yaml.safe_dump_all(documents)


def changed(**fields: Any) -> pods.Document:
    """A pod with one wrong field in its container."""
    document = pods.pod("bad", "a")
    document["spec"]["containers"][0] |= fields
    return document


@pytest.fixture
def there(local_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster that commands mean."""
    monkeypatch.setenv("PODWIRE_CLUSTER", local_cluster.spec.name)
    return local_cluster


@pytest.fixture
def podwire(monkeypatch: pytest.MonkeyPatch) -> Podwire:
    """The command line, in this process: a table of it takes seconds so."""

    def invoke(*argv: str, stdin: str = "") -> int:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        return run(argv, App())

    return invoke


# What is applied, the exit code, and words of the sentence.
APPLIED = [
    ("not YAML", "a: [b\n", "standard input: line 2, column 1: did not find expected ',' or ']'"),
    ("text", "just text\n", "a manifest must be a mapping with apiVersion and kind, not a string"),
    ("nothing", "", "there is no document in"),
    ("a program", '!!python/object/apply:os.system ["true"]\n', "could not determine a constructor"),
    ("no kind", "apiVersion: v1\n", "kind is missing"),
    ("no name", "apiVersion: v1\nkind: Pod\nmetadata: {}\n", "Pod has no metadata.name"),
    (
        "an unknown kind after a good pod",
        manifest(GOOD, {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "x"}}),
        "kind 'DaemonSet' in apiVersion 'apps/v1' is not supported; supported are Namespace (v1), Node (v1), Pod (v1)",
    ),
    (
        "a wrong type after a good pod",
        manifest(GOOD, changed(image=5)),
        "Pod bad: spec.containers[0].image: 5 is not a string",
    ),
    (
        "a number in quotes",
        manifest(GOOD, changed(ports=[{"containerPort": "80"}])),
        'ports[0].containerPort: "80" is not an integer',
    ),
    ("a port out of range", manifest(changed(ports=[{"containerPort": 70000}])), "70000 is not a port"),
    ("a name twice", manifest(GOOD, GOOD), "Pod 'good' stands twice in this file"),
    (
        "a name that is none",
        manifest({**GOOD, "metadata": {"name": "../../etc"}}),
        "'../../etc' is not a DNS subdomain",
    ),
    (
        "a container's name that is a path",
        manifest(changed(name="../x")),
        "spec.containers[0].name: '../x' is not a DNS label",
    ),
    ("NUL", manifest(changed(image="a\0b")), "spec.containers[0].image: a NUL character"),
    (
        "a namespace that is not there",
        manifest({**GOOD, "metadata": {"name": "good", "namespace": "nowhere"}}),
        "namespace nowhere does not exist",
    ),
    (
        "another cluster",
        "apiVersion: podwire.dev/v1alpha1\nkind: Cluster\nmetadata: {name: x}\nspec: {podCIDR: 10.1.0.0/33}\n",
        "10.1.0.0/33",
    ),
]


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(("text", "sentence"), [case[1:] for case in APPLIED], ids=[case[0] for case in APPLIED])
def test_manifests_that_are_wrong(podwire: Podwire, capsys: Capture, text: str, sentence: str) -> None:
    """Exit code 1, one sentence that names the place, and nothing half-applied."""
    assert podwire("apply", "-f", "-", stdin=text) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert sentence in shown.err
    assert shown.err.count("\n") == 1 + shown.err.count("hint: ")
    assert podwire("get", "pod", "good") == 1


async def _with_pods(cluster: Cluster, *documents: pods.Document) -> None:
    """Applies pods, and waits for those that stay."""
    async with cluster.client() as client:
        await client.apply(documents)
        await pods.ready(client, *(each["metadata"]["name"] for each in documents if _stays(each["spec"])))


def _stays(spec: pods.Document) -> bool:
    return spec["nodeName"] != "nowhere" and spec.get("restartPolicy") != "Never"


COMMANDS = [
    ("apply -f missing.yaml", 1, "file missing.yaml does not exist"),
    ("apply", 2, "nothing to apply"),
    ("frobnicate", 2, "No such command 'frobnicate'"),
    ("get", 2, "no resource type is given"),
    ("get sausages", 2, "'sausages' is not a resource type of this cluster"),
    ("get pods --frob", 2, "No such option"),
    ("get pods -o nope", 2, "output format 'nope' is not known"),
    ("get pods -o jsonpath={.items[*", 2, "JSONPath '{.items[*'"),
    ("get pods -l a,,=b", 1, "labelSelector"),
    ("get pod absent", 1, "pod default/absent does not exist"),
    ("describe pod absent", 1, "pod default/absent does not exist"),
    ("delete pod absent", 1, "pod default/absent does not exist"),
    ("delete pod", 2, "give names, --all, or a selector with -l"),
    ("delete namespace default", 1, "default"),
    ("logs absent", 1, "pod default/absent does not exist"),
    ("logs waits", 1, "waits for node nowhere, which does not exist"),
    ("logs serves -c nope", 1, "pod default/serves has no container 'nope'; it has web"),
    ("logs serves --previous", 1, "has no previous attempt"),
    ("exec absent -- true", 1, "pod default/absent does not exist"),
    ("exec waits -- true", 1, "waits for node nowhere, which does not exist"),
    ("exec ended -- true", 1, "container one does not run"),
    ("exec serves -c nope -- true", 1, "has no container 'nope'; it has web"),
    ("exec serves", 2, "Missing argument"),
    ("exec serves -- no-such-command", 127, "exec no-such-command: No such file or directory"),
    ("exec serves -- /etc/passwd", 126, "exec /etc/passwd: Permission denied"),
    ("exec sleeps -- no-such-command", 127, "exec no-such-command: No such file or directory"),
    ("exec sleeps -- sh -c exit\t42", 42, ""),
    ("label pod serves", 2, "no label is given"),
    ("label pod serves bad\tkey=1", 2, "is not a valid key"),
    ("label pod serves a=b\nc", 2, "is not a valid label value"),
    ("label pod absent a=b", 1, "pod default/absent does not exist"),
    ("wait pod/waits --for=condition=Ready --timeout=0.2s", 1, "'condition=Ready' did not hold for pod/waits within"),
    ("wait pod/serves --for=nonsense", 2, "--for=nonsense is not known"),
    ("wait pod/serves --for=delete --timeout=soon", 2, "is not a duration"),
    ("node add a", 1, "node 'a' exists"),
    ("node add BAD_", 2, "'BAD_' is not a DNS label"),
    ("node delete nope", 1, "there is no node 'nope'"),
    ("node pause nope", 1, "there is no node 'nope'"),
    ("node restart nope", 1, "there is no node 'nope'"),
    ("test pingall --tcp 70000", 2, "70000 is not in the range"),
    ("--cluster nowhere status", 3, "cluster 'nowhere' is not reachable"),
    ("--cluster nowhere get pods", 3, "cluster 'nowhere' is not reachable"),
    ("--cluster ../../etc status", 2, "'../../etc' is not a DNS label"),
    ("--cluster ../../etc up --driver local", 2, "'../../etc' is not a DNS label"),
    ("run serves --image agnhost", 1, "pod default/serves already exists"),
    ("run Bad_Name --image agnhost", 1, "'Bad_Name' is not a DNS subdomain"),
]  # fmt: skip


@pytest.fixture(scope="module")
def inhabited(local_cluster: Cluster) -> Iterator[Cluster]:
    """Pods of every kind: one serves, one sleeps, one has ended, one waits for a node that is not there."""
    ended = pods.pod("ended", "a", pods.command("one", "true"), restartPolicy="Never")
    four = [
        pods.pod("serves", "a"),
        pods.pod("sleeps", "b", pods.command("one", "sleep", "infinity")),
        ended,
        pods.pod("waits", "nowhere"),
    ]

    async def unmade() -> None:
        async with local_cluster.client() as client:
            await pods.gone(client, "serves", "sleeps", "ended", "waits")

    App().run_async(_with_pods(local_cluster, *four))
    yield local_cluster
    App().run_async(unmade())


@pytest.mark.usefixtures("inhabited", "there")
@pytest.mark.parametrize(("line", "code", "sentence"), COMMANDS, ids=[case[0] for case in COMMANDS])
def test_commands_that_cannot_be_done(podwire: Podwire, capfd: Capture, line: str, code: int, sentence: str) -> None:
    """0 done, 1 failed, 2 wrong usage, 3 unreachable, and the command's own for exec; never a traceback."""
    argv = [word.replace("\t", " ") for word in line.split(" ")]
    assert podwire(*argv) == code
    shown = capfd.readouterr()
    assert sentence in shown.err
    assert "Traceback" not in shown.err
    assert "error: " in shown.err or not sentence


CLUSTERS = [
    ({"podCIDR": "10.244.0.0/16", "serviceCIDR": "10.244.1.0/24"}, "spec.serviceCIDR: 10.244.1.0/24 overlaps podCIDR 10.244.0.0/16"),
    ({"podCIDR": "10.244.0.1/16"}, "spec.podCIDR: '10.244.0.1/16' is not a CIDR (10.244.0.1/16 has host bits set)"),
    ({"podCIDR": 5}, "spec.podCIDR: 5 is not a string"),
    ({"podCIDR": "127.0.0.0/16"}, "127.0.0.0/16 is a reserved range"),
    ({"nodes": 0}, "spec.nodes: expected `int` >= 1"),
    ({"nodes": "three"}, 'spec.nodes: "three" is not an integer or a list'),
    ({"nodes": [{"name": "a"}, {"name": "a"}]}, "spec.nodes[1].name: 'a' is there twice"),
    ({"podCIDR": "10.244.0.0/24", "nodeCIDRMask": 25}, "holds 2 node ranges of /25, and there are 3 nodes"),
    ({"network": {"plugin": "nonsense"}}, "spec.network.plugin: 'nonsense' is not a network plugin"),
    ({"colour": "blue"}, "spec.colour: there is no such field"),
    ({"underlayCIDR": "198.19.0.0/30"}, "the underlay 198.19.0.0/30 has no address for another node"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "sentence"), CLUSTERS, ids=[case[1][:40] for case in CLUSTERS])
def test_clusters_that_cannot_be(
    podwire: Podwire, own_state: Path, capsys: Capture, spec: dict[str, Any], sentence: str
) -> None:
    """Nothing is made, and a right document is not refused for what a wrong one said before."""
    document = {
        "apiVersion": "podwire.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": {"name": "test-wrong"},
        "spec": spec,
    }
    assert podwire("up", "-f", "-", "--driver", "local", stdin=manifest(document)) == 1
    assert sentence in capsys.readouterr().err
    assert not (own_state / "podwire" / "test-wrong").exists()


@pytest.fixture(scope="module")
def small(own_state: Path) -> Iterator[Cluster]:
    """One node with five addresses, one of them taken by a pod; what happens to it disturbs nobody."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    for cluster in held(cluster_spec("test-small", nodes=[{"name": "a"}], nodeCIDRMask=29), local=True):
        App().run_async(_with_pods(cluster, pods.pod("box", "a", pods.command("box", "sleep", "infinity"))))
        yield cluster


async def test_an_exhausted_range_is_an_event_and_not_a_crash(small: Cluster) -> None:
    """A /29 has five addresses for pods: the sixth pod waits and says why, and the others go on."""
    names = [f"p{number}" for number in range(5)]
    documents = [pods.pod(name, "a") for name in names]
    for document in documents:
        del document["spec"]["nodeName"]
    async with small.client() as client:
        for document in documents:
            await client.create(document, namespace="default")
        addresses = await pods.ready(client, *names[:4])
        assert len(set(addresses.values())) == 4

        async def told() -> bool:
            events = (await client.list("events", namespace="default")).documents
            return any(
                each["reason"] == "AddressesExhausted" and each["involvedObject"]["name"] == "p4" for each in events
            )

        await eventually(told, "no event says that the addresses are exhausted", within_s=10.0)
        assert (await client.get("pods", "p4", namespace="default"))["status"]["phase"] == "Pending"
        await pods.gone(client, *names)


def test_a_command_on_a_node_that_stands_still_ends(
    podwire: Podwire, small: Cluster, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a sentence, once the agent has missed a keepalive, after 15 s: it once took 78. The pod is as it was."""
    monkeypatch.setenv("PODWIRE_CLUSTER", small.spec.name)
    clock = SystemClock()
    assert podwire("exec", "box", "--", "true") == 0  # from now on the controller has a connection
    assert podwire("node", "pause", "a") == 0
    began = clock.monotonic()
    assert podwire("exec", "box", "--", "true") == 1
    assert clock.monotonic() - began < 30
    assert "error: exec in pod box: " in capfd.readouterr().err
    assert podwire("node", "resume", "a") == 0
    deadline = clock.monotonic() + 20
    while podwire("exec", "box", "--", "true") != 0:
        assert clock.monotonic() < deadline, "the node does not answer after it was resumed"
