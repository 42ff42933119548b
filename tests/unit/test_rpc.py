"""Calls over real channels: errors arrive as what they were, limits hold, certificates change while servers run."""

# ruff: noqa: N802 - RPCs are named as in the protos

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from podwire import rpc, telemetry, tls
from podwire.api.v1 import control_pb2 as control
from podwire.api.v1 import control_pb2_grpc
from podwire.errors import (
    AlreadyExists,
    Conflict,
    Exhausted,
    Expired,
    InvalidInput,
    KernelError,
    NotFound,
    PermissionDenied,
    PodwireError,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from podwire.identity import Credentials, Role, node_host
from podwire.rpc.status import CODES, MAX_SENTENCE, code_of, decode, encode
from podwire.seams import SeededRng, SystemClock
from tests.unit.security import authority, running

CLOCK, RNG = SystemClock(), SeededRng(5)
GET = "/podwire.api.v1.ControlService/Get"
TABLE = {
    GET: frozenset({Role.USER, Role.ADMIN}),
    "/podwire.api.v1.ControlService/Watch": frozenset({Role.USER, Role.ADMIN}),
    "/podwire.api.v1.ControlService/Exec": frozenset({Role.USER, Role.ADMIN}),
}

ERRORS = [
    InvalidInput("spec.x: wrong", field="spec.x", hint="mend it"),
    NotFound("pod default/a is not there"),
    AlreadyExists("there is a pod default/a"),
    Conflict("pod default/a has changed"),
    Exhausted("no address is left in 10.244.1.0/24", hint="add a node"),
    Expired("revision 3 is compacted away"),
    Unavailable("node b does not answer"),
    Unauthenticated("who are you?"),
    PermissionDenied("you may not"),
    Unsupported("this kernel has no VXLAN"),
    KernelError(17, "add", "bridge pw-bridge"),
    PodwireError("näher beschrieben: ✓"),
]


class Handlers(control_pb2_grpc.ControlServiceServicer):
    """Answers with what the test put in `script`."""

    def __init__(self) -> None:
        self.script: PodwireError | Exception | None = None
        self.seen: list[Any] = []
        self.ended = asyncio.Event()

    async def Get(self, request: control.GetRequest, context: Any) -> control.GetResponse:
        self.seen.append((str(rpc.peer_identity()), rpc.peer_host(), telemetry.request_id.get()))
        if self.script:
            raise self.script
        return control.GetResponse(document=request.name.encode())

    async def Watch(self, request: control.WatchRequest, context: Any) -> AsyncIterator[control.WatchResponse]:
        try:
            yield control.WatchResponse(revision=1)
            if self.script:
                raise self.script
            await asyncio.Event().wait()
        finally:
            self.ended.set()

    async def Exec(
        self, request_iterator: AsyncIterator[control.ControlServiceExecRequest], context: Any
    ) -> AsyncIterator[control.ControlServiceExecResponse]:
        self.seen.append(str(rpc.peer_identity()))
        async for message in request_iterator:
            answer = control.ControlServiceExecResponse()
            answer.response.stdout = message.request.stdin
            yield answer


class Site:
    """A server with TLS and a Unix socket."""

    def __init__(self, directory: Path) -> None:
        self.ca = authority()
        self.handlers = Handlers()  # type: ignore[abstract]  # the other calls are not made here
        self.credentials = rpc.ServerCredentials(self.ca.issue(Role.CONTROLLER, "", clock=CLOCK, rng=RNG))
        self.server = rpc.server(TABLE, "lab", clock=CLOCK, rng=RNG)
        control_pb2_grpc.add_ControlServiceServicer_to_server(self.handlers, self.server)
        self.port = rpc.listen_tls(self.server, "127.0.0.1", 0, self.credentials)
        self.socket = directory / "s"
        rpc.listen_unix(self.server, self.socket)

    def user(self, ca: tls.CertificateAuthority | None = None) -> Credentials:
        return (ca or self.ca).issue(Role.USER, "u", clock=CLOCK, rng=RNG)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    made = Site(tmp_path)
    async with running(made.server):
        yield made


async def get(channel: grpc.aio.Channel, name: str = "a") -> bytes:
    stub = control_pb2_grpc.ControlServiceStub(channel)
    return (await rpc.call(stub.Get, control.GetRequest(name=name), doing="get", deadline_s=10)).document


async def raw(channel: grpc.aio.Channel, method: str, request: bytes) -> None:
    await channel.unary_unary(method, bytes, bytes)(request, timeout=10)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_errors_arrive_whole(site: Site, error: PodwireError) -> None:
    """Class, sentence, hint, field and errno are the same on the other side."""
    site.handlers.script = error
    async with rpc.channel("127.0.0.1", site.port, site.user()) as channel:
        with pytest.raises(type(error)) as caught:
            await get(channel)
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)
    assert vars(caught.value) == vars(error)


def test_the_table_has_every_error() -> None:
    """Each leaf of the tree has a status of its own, and each is tried above."""
    tree = {error for error in PodwireError.__subclasses__() if error.__module__ == PodwireError.__module__}
    assert set(CODES) == {PodwireError, *tree}
    assert len(set(CODES.values())) == len(CODES)
    assert {type(error) for error in ERRORS} == set(CODES)


def test_an_error_of_a_subclass_travels_as_its_nearest_ancestor() -> None:
    class Torn(Conflict):
        pass

    assert code_of(Torn("x")) is grpc.StatusCode.ABORTED
    assert type(decode(encode(Torn("x")))) is Conflict


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"type": 1}', b"\xff\xfe"])
def test_foreign_error_metadata_is_no_error(content: bytes) -> None:
    assert decode(content) is None


async def test_a_long_sentence_still_arrives(site: Site) -> None:
    """Metadata has a limit; the sentence is cut to stay below it, not lost."""
    site.handlers.script = InvalidInput("ä" * 100_000, field="f" * 100_000, hint="h" * 100_000)
    async with rpc.channel("127.0.0.1", site.port, site.user()) as channel:
        with pytest.raises(InvalidInput) as caught:
            await get(channel)
    assert len(str(caught.value)) == MAX_SENTENCE


async def test_an_unexpected_error_keeps_its_secrets(site: Site) -> None:
    """The caller learns the request id; the log learns the rest under the same id."""
    site.handlers.script = RuntimeError("password is hunter2")
    async with rpc.channel("127.0.0.1", site.port, site.user()) as channel:
        with capture_logs() as logs, pytest.raises(PodwireError) as caught:
            await get(channel)
    assert "hunter2" not in str(caught.value)
    assert site.handlers.seen[0][2] in str(caught.value)
    assert "call failed" in [line["event"] for line in logs]


async def test_handlers_know_the_caller(site: Site) -> None:
    """From the certificate, and the request id from the caller when it sent a sane one."""
    async with rpc.channel("127.0.0.1", site.port, site.user()) as channel:
        token = telemetry.request_id.set("deploy-7")
        await get(channel)
        telemetry.request_id.set("no good id!")
        await get(channel)
        telemetry.request_id.reset(token)
    async with rpc.unix_channel(site.socket) as channel:
        await get(channel)
    assert [seen[:2] for seen in site.handlers.seen] == [("user u", "127.0.0.1")] * 2 + [("admin", "unix")]
    first, second, third = (seen[2] for seen in site.handlers.seen)
    assert first == "deploy-7"
    assert len(second) == len(third) == 36


def test_there_is_no_caller_outside_of_a_call() -> None:
    with pytest.raises(Unauthenticated):
        rpc.peer_identity()


async def test_a_refused_request_is_never_parsed(tmp_path: Path) -> None:
    """What a caller without rights sends meets no parser."""
    parsed = []

    async def handler(_request: Any, _context: Any) -> bytes:
        return b""

    def parse(content: bytes) -> bytes:
        parsed.append(content)
        return content

    server = rpc.server({"/x.Y/Open": frozenset({Role.ADMIN})}, "lab", clock=CLOCK, rng=RNG)
    methods = {name: grpc.unary_unary_rpc_method_handler(handler, parse, bytes) for name in ("Open", "Shut")}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("x.Y", methods),))
    rpc.listen_unix(server, tmp_path / "s")
    async with running(server), rpc.unix_channel(tmp_path / "s") as channel:
        with pytest.raises(PermissionDenied), rpc.translated():
            await raw(channel, "/x.Y/Shut", b"shut")
        await raw(channel, "/x.Y/Open", b"open")
    assert parsed == [b"open"]


async def test_a_request_that_does_not_parse_is_invalid_input(site: Site) -> None:
    async with rpc.channel("127.0.0.1", site.port, site.user()) as channel:
        with pytest.raises(InvalidInput), rpc.translated():
            await raw(channel, GET, b"\xff\xff\xff")
    assert site.handlers.seen == []


async def test_a_stream_ends_with_its_error(site: Site) -> None:
    site.handlers.script = Expired("revision 1 is compacted away")
    async with rpc.channel("127.0.0.1", site.port, site.user()) as channel:
        stub = control_pb2_grpc.ControlServiceStub(channel)
        answers = rpc.stream(stub.Watch, control.WatchRequest())
        assert (await anext(answers)).revision == 1
        with pytest.raises(Expired):
            await anext(answers)


async def test_a_reader_that_stops_ends_the_handler(site: Site) -> None:
    """Nothing goes on for a caller that is gone."""
    async with rpc.channel("127.0.0.1", site.port, site.user()) as channel:
        stub = control_pb2_grpc.ControlServiceStub(channel)
        async with aclosing(rpc.stream(stub.Watch, control.WatchRequest())) as answers:
            assert (await anext(answers)).revision == 1
        await asyncio.wait_for(site.handlers.ended.wait(), 10)


async def test_a_quiet_stream_is_not_cut_off_for_its_keepalives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`get -w` once ended with "Too many pings" after 40 s of nothing: the server did not know how often a client may ask."""
    monkeypatch.setattr("podwire.rpc.channels.MIN_PING_INTERVAL_MS", 1)
    site = Site(tmp_path)
    settings, ping, go_away = 4, 6, 7
    async with running(site.server):
        reader, writer = await asyncio.open_unix_connection(site.socket)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, settings, 0, 0, 0, 0, 0]))
        answered = 0
        writer.write(bytes([0, 0, 8, ping, 0, 0, 0, 0, 0]) + bytes(8))
        while answered < 8:  # three too many would be the end
            head = await asyncio.wait_for(reader.readexactly(9), 5)
            await reader.readexactly(int.from_bytes(head[:3], "big"))
            assert head[3] != go_away
            if head[3] == ping:
                answered += 1
                await CLOCK.sleep(0.003)
                writer.write(bytes([0, 0, 8, ping, 0, 0, 0, 0, 0]) + bytes(8))
        writer.close()
        await writer.wait_closed()


async def test_both_ways(site: Site) -> None:
    """A bidirectional stream passes the gate once and then flows."""
    async with rpc.channel("127.0.0.1", site.port, site.user()) as channel:
        call = control_pb2_grpc.ControlServiceStub(channel).Exec()
        for piece in (b"one", b"two"):
            message = control.ControlServiceExecRequest()
            message.request.stdin = piece
            await call.write(message)
            answer = await call.read()
            assert isinstance(answer, control.ControlServiceExecResponse)
            assert answer.response.stdout == piece
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
    assert site.handlers.seen == ["user u"]


async def test_a_server_is_asked_by_name(site: Site) -> None:
    """A node's certificate does not make its holder the controller, nor another node."""
    for name in (node_host("a"), "localhost"):
        async with rpc.channel("127.0.0.1", site.port, site.user(), name) as channel:
            with pytest.raises(Unavailable, match=r"(?i)host ?name|verif"):
                await get(channel)


async def test_certificates_change_while_the_server_runs(site: Site) -> None:
    """Old connections stay, new handshakes see the new certificate, on each listener."""
    async with rpc.channel("127.0.0.1", site.port, site.user()) as before:
        await get(before)
        renewed = site.ca.issue(Role.CONTROLLER, "", clock=CLOCK, rng=RNG)
        site.credentials.replace(renewed)
        await get(before)
        async with rpc.channel("127.0.0.1", site.port, site.user()) as after:
            assert await get(after) == b"a"


async def test_many_changes_under_load_fail_no_call(site: Site) -> None:
    """A standing channel is never disturbed, and each handshake finds a whole pair of key and certificate."""
    steady = rpc.channel("127.0.0.1", site.port, site.user())
    stop = asyncio.Event()

    async def load() -> int:
        calls = 0
        while not stop.is_set():
            calls += len(await get(steady))
        return calls

    async with steady, asyncio.TaskGroup() as tasks:
        loads = [tasks.create_task(load()) for _ in range(4)]
        for _ in range(40):
            site.credentials.replace(site.ca.issue(Role.CONTROLLER, "", clock=CLOCK, rng=RNG))
            async with rpc.channel("127.0.0.1", site.port, site.user()) as fresh:
                await get(fresh)
        stop.set()
        await asyncio.wait(loads)
    assert sum(task.result() for task in loads) >= 40


async def test_one_ca_takes_over_from_another(site: Site) -> None:
    """With both in every bundle, papers of either are good on both sides; without, they are not."""
    successor = authority(seed=9)
    site.credentials.replace(successor.trusting(site.ca).issue(Role.CONTROLLER, "", clock=CLOCK, rng=RNG))
    for ca, good in ((site.ca.trusting(successor), True), (successor, True), (site.ca, False)):
        async with rpc.channel("127.0.0.1", site.port, site.user(ca)) as channel:
            if good:
                assert await get(channel) == b"a"
            else:  # it has not heard of the new CA
                with pytest.raises(Unavailable):
                    await get(channel)


async def test_a_taken_address_is_said_so(site: Site) -> None:
    """Two servers never share a port silently."""
    other = rpc.server(TABLE, "lab", clock=CLOCK, rng=RNG)
    with pytest.raises(AlreadyExists, match=str(site.port)):
        rpc.listen_tls(other, "127.0.0.1", site.port, site.credentials)


async def test_a_socket_path_too_long_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="107"):
        rpc.listen_unix(rpc.server(TABLE, "lab", clock=CLOCK, rng=RNG), tmp_path / ("x" * 120))


async def test_nobody_there(tmp_path: Path) -> None:
    """One sentence that names what was being done."""
    async with rpc.unix_channel(tmp_path / "nobody") as channel:
        with pytest.raises(Unavailable, match="get: "):
            await get(channel)


async def test_no_answer_in_time(site: Site) -> None:
    async with rpc.channel("127.0.0.1", site.port, site.user()) as channel:
        stub = control_pb2_grpc.ControlServiceStub(channel)
        with pytest.raises(Unavailable, match="watch: no answer in time"):
            async for _ in rpc.stream(stub.Watch, control.WatchRequest(), doing="watch", deadline_s=0.2):
                pass


async def test_a_message_over_the_limit_is_refused(site: Site) -> None:
    async with rpc.channel("127.0.0.1", site.port, site.user()) as channel:
        with pytest.raises(Exhausted):
            await get(channel, "x" * 5_000_000)


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:0", "host:65536", "host:x"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(InvalidInput):
        rpc.split_address(address)


@pytest.mark.parametrize(
    ("address", "pair"),
    [("host:1", ("host", 1)), ("10.0.0.1:7443", ("10.0.0.1", 7443)), ("[fd00::1]:7", ("fd00::1", 7))],
)
def test_what_is_an_address(address: str, pair: tuple[str, int]) -> None:
    assert rpc.split_address(address) == pair


async def test_over_ipv6(site: Site) -> None:
    server = rpc.server(TABLE, "lab", clock=CLOCK, rng=RNG)
    control_pb2_grpc.add_ControlServiceServicer_to_server(site.handlers, server)
    try:
        port = rpc.listen_tls(server, "::1", 0, site.credentials)
    except AlreadyExists:
        pytest.skip("this machine has no IPv6 loopback")
    async with running(server), rpc.channel("::1", port, site.user()) as channel:
        assert await get(channel) == b"a"
    assert site.handlers.seen[0][1] == "::1"
