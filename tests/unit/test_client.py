"""The typed client against a server whose answers are the requests themselves."""

# ruff: noqa: N802 - RPCs are named as in the protos

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from controller.authz import TABLE
from podwire import rpc
from podwire.api.v1 import control_pb2 as control
from podwire.api.v1 import control_pb2_grpc, node_agent_pb2
from podwire.client import ControlClient, Event, connect
from podwire.errors import Conflict, Expired, InvalidInput, NotFound, Unavailable
from podwire.identity import Role, save_credentials
from podwire.seams import SeededRng, SystemClock, SystemDisk
from tests.unit.security import authority, running

CLOCK, RNG = SystemClock(), SeededRng(6)


class Echo(control_pb2_grpc.ControlServiceServicer):
    """Says what it was asked."""

    async def Apply(self, request: control.ApplyRequest, context: Any) -> control.ApplyResponse:
        if not request.documents:
            raise InvalidInput("documents: none", field="documents")
        return control.ApplyResponse(
            objects=[control.AppliedObject(document=one, outcome="created") for one in request.documents]
        )

    async def Create(self, request: control.CreateRequest, context: Any) -> control.CreateResponse:
        return control.CreateResponse(document=request.document)

    async def Get(self, request: control.GetRequest, context: Any) -> control.GetResponse:
        if request.name == "absent":
            raise NotFound(f"{request.resource} {request.namespace}/{request.name} is not there")
        return control.GetResponse(document=_say(name=request.name, namespace=request.namespace))

    async def List(self, request: control.ListRequest, context: Any) -> control.ListResponse:
        documents = [_say(labels=request.label_selector, fields=request.field_selector)]
        documents *= 3 if len(request.label_selector) > 1_000_000 else 1
        return control.ListResponse(documents=documents, revision=7)

    async def Watch(self, request: control.WatchRequest, context: Any) -> AsyncIterator[control.WatchResponse]:
        yield control.WatchResponse(type="ADDED", document=_say(name="a"), revision=request.revision + 1)
        yield control.WatchResponse(type="BOOKMARK", revision=request.revision + 2)
        raise Expired("too slow")

    async def Patch(self, request: control.PatchRequest, context: Any) -> control.PatchResponse:
        return control.PatchResponse(document=request.merge_patch, changed=True)

    async def Delete(self, request: control.DeleteRequest, context: Any) -> control.DeleteResponse:
        if request.uid:
            raise Conflict("another UID")
        grace = request.grace_s if request.HasField("grace_s") else None
        return control.DeleteResponse(document=_say(grace=grace))

    async def CreateJoinToken(
        self, request: control.CreateJoinTokenRequest, context: Any
    ) -> control.CreateJoinTokenResponse:
        return control.CreateJoinTokenResponse(token=f"{request.node} {request.zone} {dict(request.labels)}")

    async def Status(self, request: control.StatusRequest, context: Any) -> control.StatusResponse:
        return control.StatusResponse(cluster="lab", pods=3)

    async def Probe(
        self, request: control.ControlServiceProbeRequest, context: Any
    ) -> control.ControlServiceProbeResponse:
        results = [node_agent_pb2.ProbeResult(id=pair.id, ok=True) for pair in request.pairs]
        return control.ControlServiceProbeResponse(results=results)

    async def Inspect(
        self, request: control.ControlServiceInspectRequest, context: Any
    ) -> control.ControlServiceInspectResponse:
        return control.ControlServiceInspectResponse(facts=[node_agent_pb2.Fact(kind="bridge", name=request.node)])

    async def Logs(
        self, request: control.ControlServiceLogsRequest, context: Any
    ) -> AsyncIterator[control.ControlServiceLogsResponse]:
        wanted = request.request
        for line in (wanted.pod, str(wanted.tail_lines), str(wanted.follow)):
            yield control.ControlServiceLogsResponse(data=line.encode())

    async def Exec(
        self, request_iterator: AsyncIterator[control.ControlServiceExecRequest], context: Any
    ) -> AsyncIterator[control.ControlServiceExecResponse]:
        async for message in request_iterator:
            answer = control.ControlServiceExecResponse()
            kind = message.request.WhichOneof("message")
            if kind == "start" and message.request.start.argv[0] == "absent":
                raise NotFound("pod default/a is not there")
            if kind == "stdin":
                answer.response.stdout = message.request.stdin.upper()
                yield answer
            if (kind == "start" and not message.request.start.stdin) or kind == "stdin_closed":
                answer.response.exit.code = 3
                yield answer
                return


def _say(**values: Any) -> bytes:
    return json.dumps(values).encode()


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[ControlClient]:
    server = rpc.server(TABLE, "lab", clock=CLOCK, rng=RNG)
    control_pb2_grpc.add_ControlServiceServicer_to_server(Echo(), server)
    rpc.listen_unix(server, tmp_path / "s")
    async with running(server), connect(socket=tmp_path / "s") as made:
        yield made


async def test_documents(client: ControlClient) -> None:
    """Dicts go in and come out."""
    (applied,) = await client.apply([{"kind": "Pod", "unknown": [1, None]}])
    assert (applied.document, applied.outcome) == ({"kind": "Pod", "unknown": [1, None]}, "created")
    assert await client.create({"kind": "Pod"}) == {"kind": "Pod"}
    assert await client.get("pods", "a", namespace="n") == {"name": "a", "namespace": "n"}
    listed = await client.list("pods", label_selector="x=y", field_selector="spec.nodeName=a")
    assert (listed.documents, listed.revision) == ([{"labels": "x=y", "fields": "spec.nodeName=a"}], 7)
    assert await client.patch("pods", "a", {"spec": {"x": None}}) == ({"spec": {"x": None}}, True)
    assert await client.delete("pods", "a") == {"grace": None}
    assert await client.delete("pods", "a", grace_s=0) == {"grace": 0}


async def test_a_list_of_thousands_of_pods_arrives(client: ControlClient) -> None:
    """It is one message, of 10 MB here: `get pods` once ended at 4 MB, about 1,500 pods."""
    listed = await client.list("pods", label_selector="x" * 3_000_000)
    assert len(listed.documents[0]["labels"]) == 3_000_000
    with pytest.raises(InvalidInput, match="the documents come to 5000013 bytes, more than the 4194304"):
        await client.apply([{"a": "x" * 5_000_000}])


async def test_errors(client: ControlClient) -> None:
    with pytest.raises(NotFound, match="pods n/absent is not there"):
        await client.get("pods", "absent", namespace="n")
    with pytest.raises(InvalidInput) as caught:
        await client.apply([])
    assert caught.value.field == "documents"
    with pytest.raises(Conflict):
        await client.delete("pods", "a", uid="other")


async def test_watch(client: ControlClient) -> None:
    """Events, bookmarks, and Expired as an error; a reader may stop at any time."""
    events = client.watch("pods", revision=4)
    assert await anext(events) == Event("ADDED", {"name": "a"}, 5)
    assert await anext(events) == Event("BOOKMARK", {}, 6)
    with pytest.raises(Expired):
        await anext(events)
    async with aclosing(client.watch("pods")) as stopped:
        assert (await anext(stopped)).revision == 1


async def test_nodes(client: ControlClient) -> None:
    assert (await client.create_join_token("d", zone="z", labels={"k": "v"})).token == "d z {'k': 'v'}"
    assert (await client.status()).pods == 3
    (result,) = await client.probe([control.PairProbe(id="1")])
    assert (result.id, result.ok) == ("1", True)
    assert [fact.name for fact in await client.inspect("a")] == ["a"]


async def test_logs(client: ControlClient) -> None:
    pieces = [piece async for piece in client.logs("p", namespace="n", tail_lines=5, follow=True)]
    assert pieces == [b"p", b"5", b"True"]


async def test_exec_with_input(client: ControlClient) -> None:
    """Input flows up while output flows down; the exit code comes last."""

    async def stdin() -> AsyncIterator[node_agent_pb2.ExecRequest]:
        for piece in (b"one", b"two"):
            yield node_agent_pb2.ExecRequest(stdin=piece)
        yield node_agent_pb2.ExecRequest(stdin_closed=True)

    start = node_agent_pb2.ExecStart(namespace="n", pod="p", argv=["cat"], stdin=True)
    answers = [answer async for answer in client.exec(start, stdin())]
    assert [answer.stdout for answer in answers[:2]] == [b"ONE", b"TWO"]
    assert answers[2].exit.code == 3


async def test_exec_that_ends_before_its_input(client: ControlClient) -> None:
    """Input that nobody reads does not hold the call up."""

    async def endless() -> AsyncIterator[node_agent_pb2.ExecRequest]:
        while True:
            yield node_agent_pb2.ExecRequest(stdin=b"x" * 10_000)

    start = node_agent_pb2.ExecStart(namespace="n", pod="p", argv=["true"])
    answers = [answer async for answer in client.exec(start, endless())]
    assert [answer.exit.code for answer in answers] == [3]


async def test_exec_that_is_refused_while_input_flows(client: ControlClient) -> None:
    """The server's own error arrives, not the failure of the write that was under way (grpc/grpc#36066)."""

    async def endless() -> AsyncIterator[node_agent_pb2.ExecRequest]:
        while True:
            yield node_agent_pb2.ExecRequest(stdin=b"x" * 10_000)

    start = node_agent_pb2.ExecStart(namespace="default", pod="a", argv=["absent"], stdin=True)
    for _ in range(20):
        with pytest.raises(NotFound, match="default/a"):
            await anext(client.exec(start, endless()))


async def test_exec_whose_input_fails(client: ControlClient) -> None:
    """The call ends and the reader hears why."""

    async def broken() -> AsyncIterator[node_agent_pb2.ExecRequest]:
        yield node_agent_pb2.ExecRequest(stdin=b"one")
        raise OSError("terminal gone")

    start = node_agent_pb2.ExecStart(namespace="n", pod="p", argv=["cat"], stdin=True)
    with pytest.raises(OSError, match="terminal gone"):
        [answer async for answer in client.exec(start, broken())]


async def test_exec_in_a_pod_that_is_not_there(client: ControlClient) -> None:
    start = node_agent_pb2.ExecStart(namespace="default", pod="a", argv=["absent"])
    with pytest.raises(NotFound, match="default/a"):
        await anext(client.exec(start))


async def test_over_tls(tmp_path: Path) -> None:
    """With ca.pem, client.pem and client.key of a directory."""
    ca = authority()
    server = rpc.server(TABLE, "lab", clock=CLOCK, rng=RNG)
    control_pb2_grpc.add_ControlServiceServicer_to_server(Echo(), server)
    papers = rpc.ServerCredentials(ca.issue(Role.CONTROLLER, "", clock=CLOCK, rng=RNG))
    port = rpc.listen_tls(server, "127.0.0.1", 0, papers)
    user = ca.issue(Role.USER, "u", clock=CLOCK, rng=RNG)
    save_credentials(SystemDisk(), tmp_path, user, certificate="client.pem", key="client.key")
    async with running(server), connect(address=f"127.0.0.1:{port}", credentials=tmp_path) as client:
        assert (await client.status()).cluster == "lab"


async def test_nobody_there(tmp_path: Path) -> None:
    async with connect(socket=tmp_path / "s") as client:
        with pytest.raises(Unavailable, match="status"):
            await client.status()


def test_no_credentials(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"client\.pem"):
        connect(address="127.0.0.1:1", credentials=tmp_path)
