"""Admission: Kubernetes' defaults, and a path for everything that is wrong."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from controller.admission import ADMISSION
from controller.objects.admission import AdmissionRequest
from controller.objects.resources import resource_named
from podwire.errors import InvalidInput
from podwire.model.cluster import API_VERSION, parse_cluster

Doc = dict[str, Any]


def admitted(resource: str, new: Doc, old: Doc | None = None) -> Doc:
    request = AdmissionRequest(
        resource=resource_named(resource),
        operation="UPDATE" if old else "CREATE",
        new=copy.deepcopy(new),
        old=old,
        namespace="default",
        name=new["metadata"]["name"],
    )
    ADMISSION[resource](request)
    return request.new


def pod(**spec: Any) -> Doc:
    containers = [{"name": "c", "image": "agnhost", "ports": [{"containerPort": 80, "name": "http"}]}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers, **spec}}


def with_container(**fields: Any) -> Doc:
    doc = pod()
    doc["spec"]["containers"][0] |= fields
    return doc


def test_pod_defaults() -> None:
    """What kubectl get -o yaml would show on a cluster."""
    spec = admitted("pods", with_container(readinessProbe={"httpGet": {"port": "http"}}))["spec"]
    assert spec["restartPolicy"] == "Always"
    assert spec["dnsPolicy"] == "ClusterFirst"
    assert spec["terminationGracePeriodSeconds"] == 30
    container = spec["containers"][0]
    assert container["imagePullPolicy"] == "Always"
    assert container["ports"] == [{"containerPort": 80, "name": "http", "protocol": "TCP"}]
    assert container["readinessProbe"] == {
        "httpGet": {"port": "http", "path": "/", "scheme": "HTTP"},
        "timeoutSeconds": 1,
        "periodSeconds": 10,
        "successThreshold": 1,
        "failureThreshold": 3,
    }


@pytest.mark.parametrize(
    ("image", "policy"), [("nginx", "Always"), ("nginx:latest", "Always"), ("nginx:1.27", "IfNotPresent")]
)
def test_pull_policy(image: str, policy: str) -> None:
    assert admitted("pods", with_container(image=image))["spec"]["containers"][0]["imagePullPolicy"] == policy


def test_quantities_and_volumes_are_carried_along() -> None:
    """What the network does not need is accepted and kept."""
    doc = with_container(resources={"limits": {"cpu": "500m"}}, volumeMounts=[{"name": "v", "mountPath": "/v"}])
    doc["spec"] |= {"volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"operator": "Exists"}]}
    spec = admitted("pods", doc)["spec"]
    assert spec["volumes"] == [{"name": "v", "emptyDir": {}}]
    assert spec["containers"][0]["resources"] == {"limits": {"cpu": "500m"}}


C = "spec.containers[0]"
WRONG: list[tuple[str, Doc, str]] = [
    (
        "port is text",
        with_container(ports=[{"containerPort": "abc"}]),
        f'{C}.ports[0].containerPort: "abc" is not an integer',
    ),
    (
        "port too high",
        with_container(ports=[{"containerPort": 70000}]),
        f"{C}.ports[0].containerPort: 70000 is not a port",
    ),
    ("port without number", with_container(ports=[{"name": "x"}]), f"{C}.ports[0].containerPort: is required"),
    (
        "protocol",
        with_container(ports=[{"containerPort": 1, "protocol": "tcp"}]),
        f"{C}.ports[0].protocol: 'tcp' is not one of",
    ),
    (
        "port name",
        with_container(ports=[{"containerPort": 1, "name": "HTTP"}]),
        f"{C}.ports[0].name: 'HTTP' is not a port name",
    ),
    (
        "port name twice",
        with_container(ports=[{"containerPort": 1, "name": "x"}, {"containerPort": 2, "name": "x"}]),
        f"{C}.ports[1].name: 'x' is there twice",
    ),
    ("no containers", pod(containers=[]), "spec.containers: a pod needs at least one"),
    ("container's name", with_container(name="C_1"), f"{C}.name: 'C_1' is not a DNS label"),
    (
        "container twice",
        pod(containers=[{"name": "a", "image": "i"}, {"name": "a", "image": "i"}]),
        "spec.containers[1].name: 'a' is there twice",
    ),
    (
        "init container's name again",
        pod(initContainers=[{"name": "c", "image": "i"}]),
        "spec.containers[0].name: 'c' is there twice",
    ),
    (
        "sidecar",
        pod(initContainers=[{"name": "s", "image": "i", "restartPolicy": "Always"}]),
        "spec.initContainers[0].restartPolicy: ",
    ),
    ("no image", with_container(image=""), f"{C}.image: is required"),
    ("env", with_container(env=[{"name": "a=b"}]), f"{C}.env[0].name: 'a=b' is not a variable name"),
    ("env is a mapping", with_container(env={"A": "1"}), f"{C}.env: a mapping is not a list"),
    ("arg is a number", with_container(args=["a", 1]), f"{C}.args[1]: 1 is not a string"),
    (
        "restart policy",
        pod(restartPolicy="Sometimes"),
        "spec.restartPolicy: 'Sometimes' is not one of Always, OnFailure, Never",
    ),
    ("host network", pod(hostNetwork=True), "spec.hostNetwork: pods in the node's own network are not supported"),
    ("probe of nothing", with_container(readinessProbe={}), f"{C}.readinessProbe: needs exactly one of"),
    (
        "probe of an unknown port",
        with_container(livenessProbe={"tcpSocket": {"port": "web"}}),
        f"{C}.livenessProbe.tcpSocket.port: the container declares no port named 'web'",
    ),
    (
        "period",
        with_container(livenessProbe={"tcpSocket": {"port": 80}, "periodSeconds": 0}),
        f"{C}.livenessProbe.periodSeconds: 0 is less than 1",
    ),
    (
        "capability",
        with_container(securityContext={"capabilities": {"add": ["net"]}}),
        f"{C}.securityContext.capabilities.add[0]: ",
    ),
    ("DNS without servers", pod(dnsPolicy="None"), "spec.dnsConfig.nameservers: at least one"),
    ("host alias", pod(hostAliases=[{"ip": "x"}]), "spec.hostAliases[0].ip: 'x' is not an IP address"),
    (
        "a line smuggled into the hosts file",
        pod(hostAliases=[{"ip": "10.0.0.1", "hostnames": ["a", "b\n10.0.0.2 bank"]}]),
        "spec.hostAliases[0].hostnames[1]: 'b\\n10.0.0.2 bank' is not a DNS subdomain",
    ),
    (
        "a line smuggled into resolv.conf by a search domain",
        pod(dnsConfig={"searches": ["a.test", "b\nnameserver 10.0.0.2"]}),
        "spec.dnsConfig.searches[1]: 'b\\nnameserver 10.0.0.2' is not a DNS domain",
    ),
    (
        "a line smuggled into resolv.conf by an option",
        pod(dnsConfig={"options": [{"name": "ndots", "value": "2\nnameserver 10.0.0.2"}]}),
        "spec.dnsConfig.options[0]: a name and a value are one word each",
    ),
    (
        "a line smuggled into resolv.conf by an address's zone",
        pod(dnsConfig={"nameservers": ["fe80::1%a\nsearch evil"]}),
        "spec.dnsConfig.nameservers[0]: 'fe80::1%a\\nsearch evil' is not an IP address",
    ),
    ("NUL in an image", with_container(image="a\0b"), f"{C}.image: a NUL character"),
    ("NUL in a variable", with_container(env=[{"name": "A", "value": "\0"}]), f"{C}.env[0].value: a NUL character"),
    (
        "variable of two lines",
        with_container(env=[{"name": "A\nB"}]),
        f"{C}.env[0].name: 'A\\nB' is not a variable name",
    ),
    ("no spec", {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}, "spec: is required"),
]


@pytest.mark.parametrize(("doc", "sentence"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_wrong_pods(doc: Doc, sentence: str) -> None:
    """The sentence starts with the path, which is the error's field too."""
    with pytest.raises(InvalidInput) as caught:
        admitted("pods", doc)
    assert str(caught.value).startswith(sentence)
    assert caught.value.field == sentence.partition(":")[0]


def changed(old: Doc, path: tuple[Any, ...], value: Any) -> Doc:
    new = copy.deepcopy(old)
    target = new
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    return new


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "containers", 0, "image"), "agnhost:2"),
        (("spec", "nodeName"), "a"),
        (("metadata", "labels"), {"a": "b"}),
        (("spec", "tolerations"), [{"operator": "Exists"}]),
    ],
)
def test_what_may_change(path: tuple[Any, ...], value: Any) -> None:
    old = admitted("pods", pod())
    admitted("pods", changed(old, path, value), old)


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("spec", "containers", 0, "args"), ["netexec"], "spec.containers[0].args"),
        (("spec", "containers", 0, "ports", 0, "containerPort"), 81, "spec.containers[0].ports[0].containerPort"),
        (("spec", "restartPolicy"), "Never", "spec.restartPolicy"),
        (("spec", "nodeName"), "b", "spec.nodeName"),
    ],
)
def test_what_must_not_change(path: tuple[Any, ...], value: Any, field: str) -> None:
    """The refusal names the field and the way out."""
    old = admitted("pods", pod(nodeName="a"))
    with pytest.raises(InvalidInput, match="cannot be changed") as caught:
        admitted("pods", changed(old, path, value), old)
    assert caught.value.field == field
    assert "delete the pod" in caught.value.hint


def test_namespaces_are_labelled_with_their_name() -> None:
    doc = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}
    assert admitted("namespaces", doc)["metadata"]["labels"] == {"kubernetes.io/metadata.name": "shop"}


def test_nodes_keep_their_range() -> None:
    """A pod CIDR is given by the controller, once."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}, "spec": {"podCIDRs": ["10.0.0.0/24"]}}
    with pytest.raises(InvalidInput, match="given by the controller"):
        admitted("nodes", node)
    with pytest.raises(InvalidInput, match=r"spec\.podCIDRs.0.: cannot be changed"):
        admitted("nodes", changed(node, ("spec", "podCIDRs"), ["10.0.1.0/24"]), node)
    admitted("nodes", changed(node, ("spec", "unschedulable"), value=True), node)


def test_a_living_cluster_keeps_its_ranges() -> None:
    """Nodes come and go and the guard may be turned off; ranges and the tunnel stay."""
    old = admitted("clusters", {"apiVersion": API_VERSION, "kind": "Cluster", "metadata": {"name": "c"}})
    assert parse_cluster(old).nodes[2].name == "node-3"
    admitted("clusters", changed(old, ("spec", "nodes"), [{"name": "a"}]), old)
    admitted("clusters", changed(old, ("spec", "network", "guard"), value=False), old)
    with pytest.raises(InvalidInput, match=r"spec\.podCIDR: cannot be changed"):
        admitted("clusters", changed(old, ("spec", "podCIDR"), "10.0.0.0/16"), old)
