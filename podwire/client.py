"""A typed client of a cluster's controller: what the command line, the drivers and the tests talk through.

In: a Unix socket, or an address and a directory of credentials. Out: documents as dicts, everything else as the protocol's messages,
and PodwireErrors when something fails. Every call has a deadline; streams end when their reader stops.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import msgspec

from podwire import rpc
from podwire.api.v1 import control_pb2 as control
from podwire.api.v1 import control_pb2_grpc, node_agent_pb2
from podwire.errors import InvalidInput, NotFound
from podwire.identity import load_credentials
from podwire.rpc.status import DEADLINE_S
from podwire.seams import SystemDisk

Document = dict[str, Any]
PROBE_MARGIN_S = 15.0  # on top of the probes' own time-out, for what carries them


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` did to one object."""

    document: Document
    outcome: str  # created | configured | unchanged


@dataclass(frozen=True, slots=True)
class Listed:
    """Documents as they were at one revision: a watch may go on from there."""

    documents: list[Document]
    revision: int


@dataclass(frozen=True, slots=True)
class Event:
    """One message of a watch; a BOOKMARK has a revision and an empty document."""

    type: str  # ADDED | MODIFIED | DELETED | BOOKMARK
    document: Document
    revision: int


def connect(*, socket: Path | None = None, address: str = "", credentials: Path | None = None) -> ControlClient:
    """A client for a controller, over its Unix socket or over mTLS with ca.pem, client.pem and client.key of a directory.

    Nothing is sent yet: an unreachable controller shows at the first call, as Unavailable.
    """
    if socket is not None:
        return ControlClient(rpc.unix_channel(socket))
    directory = credentials or Path()
    papers = load_credentials(SystemDisk(), directory, certificate="client.pem", key="client.key")
    if papers is None:
        raise NotFound(f"there are no credentials in {directory}: ca.pem, client.pem and client.key are needed")
    host, port = rpc.split_address(address)
    return ControlClient(rpc.channel(host, port, papers, answer_bytes=rpc.MAX_ANSWER_BYTES))


class ControlClient:
    """Calls one controller. `async with connect(...) as client:` closes its channel at the end."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._stub = control_pb2_grpc.ControlServiceStub(channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the channel; calls under way are cancelled."""
        await self._channel.close(None)

    async def apply(
        self, documents: Iterable[Mapping[str, Any]], *, namespace: str = "", dry_run: bool = False, force: bool = False
    ) -> list[Applied]:
        """Makes the cluster hold these documents: all of them, or, when one is wrong, none. Raises InvalidInput where they are too large."""
        request = control.ApplyRequest(
            documents=[_encode(document) for document in documents], namespace=namespace, dry_run=dry_run, force=force
        )
        if request.ByteSize() > rpc.MAX_MESSAGE_BYTES:
            raise InvalidInput(
                f"the documents come to {request.ByteSize()} bytes, more than the {rpc.MAX_MESSAGE_BYTES} that are applied as one",
                hint="apply them in several files",
            )
        answer = await rpc.call(self._stub.Apply, request, doing="apply", deadline_s=4 * DEADLINE_S)
        return [Applied(_decode(one.document), one.outcome) for one in answer.objects]

    async def create(self, document: Mapping[str, Any], *, namespace: str = "", dry_run: bool = False) -> Document:
        """Makes one object; raises AlreadyExists."""
        request = control.CreateRequest(document=_encode(document), namespace=namespace, dry_run=dry_run)
        return _decode((await rpc.call(self._stub.Create, request, doing="create")).document)

    async def get(self, resource: str, name: str, *, namespace: str = "") -> Document:
        """One object; raises NotFound."""
        request = control.GetRequest(resource=resource, namespace=namespace, name=name)
        return _decode((await rpc.call(self._stub.Get, request, doing=f"get {resource} {name}")).document)

    async def list(
        self, resource: str, *, namespace: str = "", label_selector: str = "", field_selector: str = ""
    ) -> Listed:
        """Objects of a type; an empty namespace means all of them."""
        request = control.ListRequest(
            resource=resource, namespace=namespace, label_selector=label_selector, field_selector=field_selector
        )
        answer = await rpc.call(self._stub.List, request, doing=f"list {resource}", deadline_s=4 * DEADLINE_S)
        return Listed([_decode(document) for document in answer.documents], answer.revision)

    async def watch(
        self,
        resource: str,
        *,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        revision: int = 0,
    ) -> AsyncGenerator[Event, None]:
        """Changes after a revision (0: first what is there), until the reader stops. Raises Expired: list again."""
        request = control.WatchRequest(
            resource=resource,
            namespace=namespace,
            label_selector=label_selector,
            field_selector=field_selector,
            revision=revision,
        )
        async with aclosing(rpc.stream(self._stub.Watch, request, doing=f"watch {resource}")) as answers:
            async for answer in answers:
                yield Event(answer.type, _decode(answer.document), answer.revision)

    async def patch(
        self, resource: str, name: str, merge_patch: Mapping[str, Any], *, namespace: str = ""
    ) -> tuple[Document, bool]:
        """Merges a patch (RFC 7396) and says whether that changed anything."""
        request = control.PatchRequest(
            resource=resource, namespace=namespace, name=name, merge_patch=_encode(merge_patch)
        )
        answer = await rpc.call(self._stub.Patch, request, doing=f"patch {resource} {name}")
        return _decode(answer.document), answer.changed

    async def delete(
        self, resource: str, name: str, *, namespace: str = "", grace_s: int | None = None, uid: str = ""
    ) -> Document:
        """Deletes an object and returns it as it is now, or as it was when it went. Raises NotFound, or Conflict for another UID."""
        request = control.DeleteRequest(resource=resource, namespace=namespace, name=name, grace_s=grace_s, uid=uid)
        return _decode((await rpc.call(self._stub.Delete, request, doing=f"delete {resource} {name}")).document)

    async def create_join_token(
        self, node: str, *, zone: str = "", labels: Mapping[str, str] | None = None
    ) -> control.CreateJoinTokenResponse:
        """What a new node needs to join. The token in the answer is a secret."""
        request = control.CreateJoinTokenRequest(node=node, zone=zone, labels=dict(labels or {}))
        return await rpc.call(self._stub.CreateJoinToken, request, doing=f"make a join token for node {node}")

    async def status(self, *, deadline_s: float = DEADLINE_S) -> control.StatusResponse:
        """The cluster as a whole."""
        return await rpc.call(self._stub.Status, control.StatusRequest(), doing="status", deadline_s=deadline_s)

    async def probe(
        self, pairs: Sequence[control.PairProbe] = (), *, node_mesh: bool = False, timeout_s: float = 2.0
    ) -> Sequence[node_agent_pb2.ProbeResult]:
        """Sends probes between pods, or between all nodes, and says which were answered."""
        request = control.ControlServiceProbeRequest(pairs=pairs, node_mesh=node_mesh, timeout_ms=int(timeout_s * 1000))
        deadline_s = timeout_s + PROBE_MARGIN_S
        answer = await rpc.call(self._stub.Probe, request, doing="probe", deadline_s=deadline_s)
        return list(answer.results)

    async def inspect(self, node: str) -> Sequence[node_agent_pb2.Fact]:
        """What a node's kernel holds of podwire's."""
        request = control.ControlServiceInspectRequest(node=node)
        return list((await rpc.call(self._stub.Inspect, request, doing=f"inspect node {node}")).facts)

    async def logs(
        self,
        pod: str,
        *,
        namespace: str,
        container: str = "",
        follow: bool = False,
        previous: bool = False,
        tail_lines: int = -1,
        timestamps: bool = False,
    ) -> AsyncGenerator[bytes, None]:
        """A container's output, oldest first, in pieces as they come."""
        request = control.ControlServiceLogsRequest(
            request=node_agent_pb2.LogsRequest(
                namespace=namespace,
                pod=pod,
                container=container,
                follow=follow,
                previous=previous,
                tail_lines=tail_lines,
                timestamps=timestamps,
            )
        )
        async with aclosing(rpc.stream(self._stub.Logs, request, doing=f"logs of pod {pod}")) as answers:
            async for answer in answers:
                yield answer.data

    async def exec(
        self, start: node_agent_pb2.ExecStart, stdin: AsyncIterator[node_agent_pb2.ExecRequest] | None = None
    ) -> AsyncGenerator[node_agent_pb2.ExecResponse, None]:
        """Runs a command in a container; the last message carries its exit code.

        `stdin` yields what follows the start: pieces of input, terminal sizes, and `stdin_closed` at the end.
        """
        requests = _requests(start, stdin)
        async with aclosing(rpc.duplex(self._stub.Exec, requests, doing=f"exec in pod {start.pod}")) as answers:
            async for answer in answers:
                yield answer.response


async def _requests(
    start: node_agent_pb2.ExecStart, stdin: AsyncIterator[node_agent_pb2.ExecRequest] | None
) -> AsyncIterator[control.ControlServiceExecRequest]:
    yield control.ControlServiceExecRequest(request=node_agent_pb2.ExecRequest(start=start))
    if stdin is not None:
        async for message in stdin:
            yield control.ControlServiceExecRequest(request=message)


def _encode(document: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(document)


def _decode(content: bytes) -> Document:
    return msgspec.json.decode(content, type=Document) if content else {}
