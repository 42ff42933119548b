"""ControlService: translates calls into the registry's verbs, and hands what concerns a node to its agent.

In: requests of users whom the gate let through. Out: documents as JSON bytes, or a PodwireError that the gate turns into a status.
Nothing is decided here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec

from controller.ca import ClusterCA
from controller.controller import Controller
from controller.objects.registry import Registry
from controller.objects.resources import resource_named
from controller.serve.relay import Relay
from controller.serve.summary import cluster_status
from controller.tokens import TokenBook
from podwire.api.v1 import control_pb2 as control
from podwire.api.v1 import control_pb2_grpc as control_grpc
from podwire.errors import InvalidInput
from podwire.model.names import dns_label, label_key, label_value

Doc = dict[str, Any]


class ControlService(control_grpc.ControlServiceServicer):
    """See the module's docstring."""

    def __init__(self, controller: Controller, tokens: TokenBook, ca: ClusterCA, relay: Relay) -> None:
        self._controller = controller
        self._registry: Registry = controller.registry
        self._tokens = tokens
        self._ca = ca
        self._relay = relay

    async def Apply(self, request: control.ApplyRequest, context: object) -> control.ApplyResponse:
        docs = [_document(content, f"documents[{index}]") for index, content in enumerate(request.documents)]
        applied = await self._registry.apply(docs, namespace=request.namespace or "default", dry_run=request.dry_run)
        return control.ApplyResponse(
            objects=[control.AppliedObject(document=_encode(doc), outcome=outcome) for doc, outcome in applied]
        )

    async def Create(self, request: control.CreateRequest, context: object) -> control.CreateResponse:
        doc = await self._registry.create(
            _document(request.document, "document"), namespace=request.namespace or "default", dry_run=request.dry_run
        )
        return control.CreateResponse(document=_encode(doc))

    async def Get(self, request: control.GetRequest, context: object) -> control.GetResponse:
        doc = await self._registry.get(request.resource, request.namespace or "default", request.name)
        return control.GetResponse(document=_encode(doc))

    async def List(self, request: control.ListRequest, context: object) -> control.ListResponse:
        docs, revision = await self._registry.list(
            request.resource, request.namespace or None, request.label_selector, request.field_selector
        )
        return control.ListResponse(documents=map(_encode, docs), revision=revision)

    async def Watch(self, request: control.WatchRequest, context: object) -> AsyncIterator[control.WatchResponse]:
        wanted = (request.resource, request.namespace or None, request.label_selector, request.field_selector)
        after = request.revision
        if not after:
            docs, after = await self._registry.list(*wanted)
            for doc in docs:
                revision = int(doc["metadata"]["resourceVersion"])
                yield control.WatchResponse(type="ADDED", document=_encode(doc), revision=revision)
            yield control.WatchResponse(type="BOOKMARK", revision=after)
        async with aclosing(self._registry.watch(*wanted, after=after)) as events:  # type: ignore[type-var]
            async for event in events:
                document = _encode(event.doc) if event.doc else b""
                yield control.WatchResponse(type=event.type, document=document, revision=event.revision)

    async def Patch(self, request: control.PatchRequest, context: object) -> control.PatchResponse:
        namespace = request.namespace or "default"
        before = await self._registry.get(request.resource, namespace, request.name)
        patch = _document(request.merge_patch, "merge_patch")
        doc = await self._registry.patch(request.resource, namespace, request.name, patch)
        changed = doc["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"]
        return control.PatchResponse(document=_encode(doc), changed=changed)

    async def Delete(self, request: control.DeleteRequest, context: object) -> control.DeleteResponse:
        resource = resource_named(request.resource)
        namespace = request.namespace or "default"
        if resource.name == "nodes":  # fenced before it is forgotten: its certificate must not make it anew
            await self._registry.get(resource, "", request.name)
            self._ca.deny_node(request.name)
        doc = await self._registry.delete(
            resource,
            namespace,
            request.name,
            grace_s=request.grace_s if request.HasField("grace_s") else None,
            uid=request.uid,
        )
        return control.DeleteResponse(document=_encode(doc))

    async def CreateJoinToken(
        self, request: control.CreateJoinTokenRequest, context: object
    ) -> control.CreateJoinTokenResponse:
        node = dns_label(request.node, "node")
        label_value(request.zone, "zone")
        for key, value in request.labels.items():
            label_value(value, f"labels[{label_key(key, 'labels')}]")
        made = await self._tokens.issue(node, zone=request.zone, labels=request.labels)
        return control.CreateJoinTokenResponse(
            token=made.token, ca_spki_sha256=self._ca.spki_sha256, expires_unix_ms=made.expires_unix_ms
        )

    async def Status(self, request: control.StatusRequest, context: object) -> control.StatusResponse:
        return cluster_status(self._controller)

    async def Exec(
        self, request_iterator: AsyncIterator[control.ControlServiceExecRequest], context: object
    ) -> AsyncIterator[control.ControlServiceExecResponse]:
        async with aclosing(self._relay.exec(request_iterator)) as answers:
            async for answer in answers:
                yield control.ControlServiceExecResponse(response=answer)

    async def Logs(
        self, request: control.ControlServiceLogsRequest, context: object
    ) -> AsyncIterator[control.ControlServiceLogsResponse]:
        async with aclosing(self._relay.logs(request.request)) as answers:
            async for answer in answers:
                yield control.ControlServiceLogsResponse(data=answer.data)

    async def Probe(
        self, request: control.ControlServiceProbeRequest, context: object
    ) -> control.ControlServiceProbeResponse:
        return control.ControlServiceProbeResponse(results=await self._relay.probe(request))

    async def Inspect(
        self, request: control.ControlServiceInspectRequest, context: object
    ) -> control.ControlServiceInspectResponse:
        return control.ControlServiceInspectResponse(facts=await self._relay.inspect(request.node))


def _encode(doc: Doc) -> bytes:
    return msgspec.json.encode(doc)


def _document(content: bytes, field: str) -> Doc:
    try:
        return msgspec.json.decode(content, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"{field}: is not a JSON object ({error})", field=field) from error
