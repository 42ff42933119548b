"""The plan: what an agent is told of a pod, and what counts as a change."""

from __future__ import annotations

from typing import Any

import msgspec

from controller.plan import compile_pod
from controller.views import PodView, view
from podwire.api.v1 import state_pb2 as state

Doc = dict[str, Any]


def pod(*, metadata: Doc | None = None, **spec: Any) -> Doc:
    container = {
        "name": "web",
        "image": "agnhost",
        "args": ["netexec"],
        "ports": [{"containerPort": 8080, "name": "http", "protocol": "TCP"}],
        "env": [
            {"name": "PLAIN", "value": "1"},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        ],
        "readinessProbe": {"httpGet": {"port": "http", "path": "/ready", "scheme": "HTTP"}, "periodSeconds": 2},
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "1"]}}},
        "securityContext": {"capabilities": {"add": ["NET_ADMIN"]}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p", "namespace": "default", "uid": "u", "generation": 2, **(metadata or {})},
        "spec": {"nodeName": "a", "containers": [container], "restartPolicy": "Never", **spec},
        "status": {"phase": "Pending"},
    }


def compiled(doc: Doc) -> state.PodState:
    return compile_pod(doc, view(PodView, doc), ("10.244.0.2", "fd00::2"))


def test_everything_the_agent_needs() -> None:
    made = compiled(pod())
    assert (made.uid, made.namespace, made.name, made.hostname, made.generation) == ("u", "default", "p", "p", 2)
    assert list(made.addresses) == ["10.244.0.2", "fd00::2"]
    assert made.restart_policy == state.RESTART_POLICY_NEVER
    assert made.termination_grace_s == 30
    web = made.containers[0]
    assert (web.kind, list(web.argv)) == (state.CONTAINER_KIND_BUILT_IN, ["netexec"])
    assert [(each.name, each.value, each.field_path) for each in web.env] == [
        ("PLAIN", "1", ""),
        ("IP", "", "status.podIP"),
    ]
    assert (web.readiness.http_get.port, web.readiness.http_get.path, web.readiness.period_s) == (8080, "/ready", 2)
    assert not web.HasField("liveness")
    assert msgspec.json.decode(web.pre_stop_exec) == ["sleep", "1"]
    assert list(web.add_capabilities) == ["NET_ADMIN"]


def test_manifest_can_be_stored_again() -> None:
    """It is the object without what the store and the agent add."""
    doc = pod(metadata={"resourceVersion": "7"})
    kept = msgspec.json.decode(compiled(doc).manifest)
    assert "status" not in kept
    assert kept["metadata"] == {"name": "p", "namespace": "default", "uid": "u", "generation": 2}
    assert kept["spec"] == doc["spec"]


def test_status_is_no_change() -> None:
    """What an agent reports must not come back to it as news."""
    assert compiled(pod()) == compiled({**pod(), "status": {"phase": "Running"}})


def test_going_raises_the_generation() -> None:
    """And the grace period is the deletion's."""
    going = compiled(pod(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 5}))
    assert (going.terminating, going.generation, going.termination_grace_s) == (True, 3, 5)


def test_dns_is_the_nodes_until_the_pod_says_otherwise() -> None:
    assert compiled(pod()).dns == state.DnsConfig()
    config = {
        "nameservers": ["10.0.0.53"],
        "searches": ["x"],
        "options": [{"name": "ndots", "value": "5"}, {"name": "debug"}],
    }
    dns = compiled(pod(dnsPolicy="None", dnsConfig=config)).dns
    assert (list(dns.nameservers), list(dns.searches), list(dns.options)) == (
        ["10.0.0.53"],
        ["x"],
        ["ndots:5", "debug"],
    )
