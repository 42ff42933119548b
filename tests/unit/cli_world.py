"""A cluster in memory for tests of the command line: documents in a dict, answers as a test wants them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy
from typing import Any, cast

from podwire.api.v1 import control_pb2 as control
from podwire.api.v1 import node_agent_pb2 as agent
from podwire.cli.app import App
from podwire.cli.main import run
from podwire.client import Applied, ControlClient, Event, Listed
from podwire.errors import AlreadyExists, InvalidInput, NotFound, PodwireError, Unavailable
from podwire.model.kinds import kind_of

Document = dict[str, Any]


class World:
    """Fulfils what the command line uses of `ControlClient`."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Document] = {}
        self.reachable = True
        self.calls: list[tuple[str, Any]] = []
        self.script: dict[str, list[Event]] = {}  # what watches of a resource yield
        self.exec_answers: list[agent.ExecResponse] = []
        self.log: list[bytes] = []
        self.unanswered: set[str] = set()  # addresses that do not answer probes
        self.nodes: list[control.NodeStatus] = []
        self.failure: PodwireError | None = None

    def put(self, document: Document) -> Document:
        """Stores a document as the controller would have it."""
        kind = kind_of(document)
        assert kind is not None
        metadata = document.setdefault("metadata", {})
        if kind.namespaced:
            metadata.setdefault("namespace", "default")
        metadata.setdefault("uid", f"uid-{metadata['name']}")
        metadata.setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        self.objects[(kind.resource, metadata.get("namespace", ""), metadata["name"])] = document
        return document

    def pod(
        self, name: str, *, node: str = "node-1", ip: str = "10.244.1.2", ready: bool = True, **extra: Any
    ) -> Document:
        """A pod that runs."""
        word = "True" if ready else "False"
        return self.put(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, **extra.pop("metadata", {})},
                "spec": {"nodeName": node, "containers": [{"name": name, "image": "agnhost"}]},
                "status": {
                    "phase": "Running",
                    "podIP": ip,
                    "podIPs": [{"ip": ip}],
                    "conditions": [{"type": "Ready", "status": word}],
                    "containerStatuses": [{"name": name, "ready": ready, "restartCount": 0, "state": {"running": {}}}],
                    **extra,
                },
            }
        )

    def _check(self, verb: str, what: Any = None) -> None:
        self.calls.append((verb, what))
        if not self.reachable:
            raise Unavailable(f"{verb}: failed to connect")
        if self.failure is not None:
            raise self.failure

    async def status(self, *, deadline_s: float = 15.0) -> control.StatusResponse:
        self._check("status")
        pods = [document for (resource, _, _), document in self.objects.items() if resource == "pods"]
        return control.StatusResponse(
            cluster="podwire", version="0.1.0", revision=7, epoch=1, nodes=self.nodes, pods=len(pods), pods_ready=len(pods),
            cluster_document=b"{}",
        )  # fmt: skip

    async def get(self, resource: str, name: str, *, namespace: str = "") -> Document:
        self._check("get", (resource, namespace, name))
        try:
            return deepcopy(self.objects[(resource, namespace, name)])
        except KeyError:
            raise NotFound(f"there is no {resource} {name!r}") from None

    async def list(
        self, resource: str, *, namespace: str = "", label_selector: str = "", field_selector: str = ""
    ) -> Listed:
        self._check("list", (resource, namespace, label_selector, field_selector))
        found = [
            deepcopy(document)
            for (kind, space, _), document in sorted(self.objects.items())
            if kind == resource and namespace in ("", space) and _matches(document, label_selector, field_selector)
        ]
        return Listed(found, 7)

    async def watch(self, resource: str, *, revision: int = 0, **_: str) -> AsyncIterator[Event]:
        self._check("watch", (resource, revision))
        for event in self.script.get(resource, []):
            yield event
        if revision:  # a watch that goes on from a list: nothing more happens, and it stays open
            await asyncio.Event().wait()

    async def apply(
        self, documents: Sequence[Mapping[str, Any]], *, namespace: str = "", dry_run: bool = False, force: bool = False
    ) -> Sequence[Applied]:
        self._check("apply", {"namespace": namespace, "dry_run": dry_run, "force": force})
        for document in documents:
            if kind_of(dict(document)) is None:
                raise InvalidInput(f"kind {document['kind']!r} is not supported", field="kind")
        outcomes = []
        for document in documents:
            fresh = deepcopy(dict(document))
            kind = kind_of(fresh)
            assert kind is not None
            if kind.namespaced:
                fresh["metadata"].setdefault("namespace", namespace)
            key = (kind.resource, fresh["metadata"].get("namespace", ""), fresh["metadata"]["name"])
            outcome = "configured" if key in self.objects else "created"
            outcomes.append(Applied(fresh if dry_run else self.put(fresh), outcome))
        return outcomes

    async def create(self, document: Mapping[str, Any], *, namespace: str = "", dry_run: bool = False) -> Document:
        self._check("create", document)
        fresh = deepcopy(dict(document))
        kind = kind_of(fresh)
        assert kind is not None
        if kind.namespaced:
            fresh["metadata"].setdefault("namespace", namespace)
        if (kind.resource, fresh["metadata"].get("namespace", ""), fresh["metadata"]["name"]) in self.objects:
            raise AlreadyExists(f"{kind.singular} {fresh['metadata']['name']!r} exists")
        return self.put(fresh)

    async def patch(
        self, resource: str, name: str, merge_patch: Mapping[str, Any], *, namespace: str = ""
    ) -> tuple[Document, bool]:
        self._check("patch", merge_patch)
        document = self.objects[(resource, namespace, name)]
        before = json.dumps(document)
        labels = document["metadata"].setdefault("labels", {})
        for key, value in merge_patch["metadata"]["labels"].items():
            labels.pop(key, None) if value is None else labels.update({key: value})
        return document, json.dumps(document) != before

    async def delete(
        self, resource: str, name: str, *, namespace: str = "", grace_s: int | None = None, uid: str = ""
    ) -> Document:
        self._check("delete", (resource, namespace, name, grace_s))
        try:
            return self.objects.pop((resource, namespace, name))
        except KeyError:
            raise NotFound(f"there is no {resource} {name!r}") from None

    async def probe(
        self, pairs: Sequence[control.PairProbe] = (), *, node_mesh: bool = False, timeout_s: float = 2.0
    ) -> Sequence[agent.ProbeResult]:
        self._check("probe", len(pairs))
        return [
            agent.ProbeResult(id=pair.id, ok=pair.address not in self.unanswered, rtt_ms=0.2, error="timeout" if pair.address in self.unanswered else "")
            for pair in pairs
        ]  # fmt: skip

    async def logs(self, pod: str, **flags: Any) -> AsyncIterator[bytes]:
        self._check("logs", {"pod": pod, **flags})
        for piece in self.log:
            yield piece

    async def exec(self, start: agent.ExecStart, stdin: Any = None) -> AsyncIterator[agent.ExecResponse]:
        self._check("exec", start)
        for answer in self.exec_answers:
            yield answer

    def podwire(self, *argv: str) -> int:
        """Runs a command line against this cluster and returns its exit code."""

        @asynccontextmanager
        async def connector(_cluster: str) -> AsyncIterator[ControlClient]:
            yield cast("ControlClient", self)

        return run(argv, App(connector))


def _matches(document: Document, label_selector: str, field_selector: str) -> bool:
    labels = document["metadata"].get("labels") or {}
    wanted = dict(part.split("=") for part in label_selector.split(",") if part)
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    for part in filter(None, field_selector.split(",")):
        path, _, value = part.partition("=")
        found: Any = document
        for key in path.split("."):
            found = found.get(key) if isinstance(found, dict) else None
        if found != value:
            return False
    return True
