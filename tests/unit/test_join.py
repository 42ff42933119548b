"""Joining and renewing against a real controller's listeners, and against impostors; every crash in between is survived."""

# ruff: noqa: N802 - RPCs are named as in the protos

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.authz import TABLE
from controller.ca import ClusterCA
from controller.store.memory import MemoryStore
from controller.tokens import TTL_S, TokenBook
from nodeagent.join import Authority, Enrolment, GrpcAuthority, JoinFile, Member
from podwire import rpc, tls
from podwire.api.v1 import node_sync_pb2 as sync
from podwire.api.v1 import node_sync_pb2_grpc as sync_grpc
from podwire.errors import Unauthenticated, Unavailable
from podwire.identity import Credentials, Role
from podwire.seams import SeededRng, set_failpoint_handler
from tests.unit.security import DAY_S, MemoryDisk, MovingClock, logs, running

STATE = Path("/state")
JOIN = STATE / "join.json"


class Controller(sync_grpc.JoinServiceServicer, sync_grpc.NodeSyncServiceServicer):
    """The two calls that give out certificates, over the real token book and CA, on the two real listeners."""

    def __init__(self, clock: MovingClock, seed: int = 1, *, honest: bool = True) -> None:
        self.clock = clock
        self.ca = ClusterCA.open("lab", Path("/ca"), clock=clock, rng=SeededRng(seed), disk=MemoryDisk())
        self.tokens = TokenBook(MemoryStore(SeededRng(seed)), clock=clock, rng=SeededRng(seed))
        self.honest = honest
        self.heard: list[str] = []
        self.server = rpc.server(TABLE, "lab", clock=clock, rng=SeededRng(seed), refuse=self.ca.refusal)
        sync_grpc.add_JoinServiceServicer_to_server(self, self.server)
        sync_grpc.add_NodeSyncServiceServicer_to_server(self, self.server)
        papers = self.ca.issue_controller()
        self.port = rpc.listen_tls(self.server, "127.0.0.1", 0, rpc.ServerCredentials(papers))
        self.join_port = rpc.listen_tls(self.server, "127.0.0.1", 0, rpc.ServerCredentials(papers, ask_client=False))

    async def Join(self, request: sync.JoinRequest, context: Any) -> sync.JoinResponse:
        self.heard.append(request.token)
        node = request.node
        if self.honest:
            key = tls.csr_spki_sha256(request.csr_pem)
            node = (await self.tokens.redeem(request.token, request.node, key, rpc.peer_host())).node
        certificate = self.ca.sign_node(request.csr_pem, node if self.honest else "another")
        return sync.JoinResponse(certificate_pem=certificate, ca_pem=self.ca.ca_pem)

    async def RenewCertificate(
        self, request: sync.RenewCertificateRequest, context: Any
    ) -> sync.RenewCertificateResponse:
        certificate = self.ca.sign_node(request.csr_pem, rpc.peer_identity().name)
        return sync.RenewCertificateResponse(certificate_pem=certificate, ca_pem=self.ca.ca_pem)

    async def order(self, node: str = "a", token_for: str = "", pin: str = "") -> dict[str, str]:
        """What a driver writes for a node."""
        return {
            "controller": f"127.0.0.1:{self.port}",
            "join": f"127.0.0.1:{self.join_port}",
            "node": node,
            "token": (await self.tokens.issue(token_for or node)).token,
            "ca_spki_sha256": pin or self.ca.spki_sha256,
        }


@pytest.fixture
def clock() -> MovingClock:
    return MovingClock()


@pytest.fixture
async def controller(clock: MovingClock) -> AsyncIterator[Controller]:
    made = Controller(clock)  # type: ignore[abstract]  # Sync is not called here
    async with running(made.server):
        yield made


@pytest.fixture
def disk() -> MemoryDisk:
    return MemoryDisk()


@pytest.fixture
def crash_at() -> Iterator[list[str]]:
    """Names of the failpoints at which the agent dies, once each."""
    armed: list[str] = []

    def handler(name: str) -> None:
        if name in armed:
            armed.remove(name)
            raise KeyboardInterrupt(name)

    set_failpoint_handler(handler)
    yield armed
    set_failpoint_handler(None)


def enrolment(disk: MemoryDisk, clock: MovingClock, authority: Authority | None = None) -> Enrolment:
    return Enrolment(STATE, clock=clock, rng=SeededRng(4), disk=disk, authority=authority)


def write(disk: MemoryDisk, order: dict[str, str]) -> None:
    disk.files[JOIN] = json.dumps(order).encode()


async def test_a_node_joins_and_stays_joined(controller: Controller, clock: MovingClock, disk: MemoryDisk) -> None:
    """Key, certificate and CA on disk, the token gone, and no second join after a restart."""
    write(disk, await controller.order())
    member = await enrolment(disk, clock).member()
    assert (member.node, member.cluster, member.controller) == ("a", "lab", f"127.0.0.1:{controller.port}")
    assert disk.names(STATE) == ["ca.pem", "cert.pem", "join.json", "key.pem"]
    assert "token" not in json.loads(disk.files[JOIN])
    assert await enrolment(disk, clock).member() == member
    assert len(controller.heard) == 1


async def test_a_node_waits_for_the_drivers_order(controller: Controller, clock: MovingClock, disk: MemoryDisk) -> None:
    """The agent may start first."""
    order = await controller.order()

    class Late(MovingClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            if len(self.slept) == 5:
                write(disk, order)

    assert (await enrolment(disk, Late()).member()).node == "a"


async def refused(disk: MemoryDisk, order: dict[str, str]) -> str:
    """Tries to join until the agent pauses for a new order, and returns the complaint it logged."""
    write(disk, order)
    with pytest.raises(Unauthenticated) as caught:
        await enrolment(disk, MovingClock())._member_once()
    assert STATE / "cert.pem" not in disk.files
    return str(caught.value)


async def test_a_controller_with_another_ca_learns_nothing(
    controller: Controller, clock: MovingClock, disk: MemoryDisk
) -> None:
    """In the middle or in its place: without the pinned CA it does not even see the token."""
    async with running((impostor := Controller(clock, seed=7)).server):  # type: ignore[abstract]
        order = await controller.order()
        assert "pinned" in await refused(disk, order | {"join": f"127.0.0.1:{impostor.join_port}"})
        assert "pinned" in await refused(disk, order | {"ca_spki_sha256": "00" * 32})
    assert impostor.heard == controller.heard == []


async def test_whoever_shows_the_cas_certificate_without_its_key_learns_nothing(
    controller: Controller, clock: MovingClock, disk: MemoryDisk
) -> None:
    """The CA's certificate is no secret; its place in the chain of another leaf proves nothing."""
    other = ClusterCA.open("lab", Path("/ca"), clock=clock, rng=SeededRng(7), disk=MemoryDisk()).issue_controller()
    impostor = Controller(clock, seed=7)  # type: ignore[abstract]
    papers = Credentials(other.key_pem, other.certificate_pem, controller.ca.ca_pem)
    port = rpc.listen_tls(impostor.server, "127.0.0.1", 0, rpc.ServerCredentials(papers, ask_client=False))
    async with running(impostor.server):
        write(disk, await controller.order() | {"join": f"127.0.0.1:{port}"})
        with pytest.raises(Unavailable, match=r"(?i)verif"):
            await enrolment(disk, clock)._member_once()
    assert impostor.heard == []


async def test_a_member_of_the_cluster_cannot_pose_as_its_controller(
    controller: Controller, clock: MovingClock, disk: MemoryDisk
) -> None:
    """A node's certificate is of the pinned CA, but it is not the controller's."""
    authority = tls.load_ca("lab", Path("/ca"), controller_disk(controller))
    assert authority is not None
    papers = authority.issue(Role.NODE, "controller", clock=clock, rng=SeededRng(1))
    impostor = Controller(clock, seed=7)  # type: ignore[abstract]
    port = rpc.listen_tls(impostor.server, "127.0.0.1", 0, rpc.ServerCredentials(papers, ask_client=False))
    async with running(impostor.server):
        write(disk, await controller.order() | {"join": f"127.0.0.1:{port}"})
        with pytest.raises(Unavailable, match=r"(?i)host ?name|verif"):
            await enrolment(disk, clock)._member_once()
    assert impostor.heard == []


def controller_disk(controller: Controller) -> MemoryDisk:
    disk = controller.ca._disk
    assert isinstance(disk, MemoryDisk)
    return disk


async def test_a_token_is_for_one_name(controller: Controller, disk: MemoryDisk) -> None:
    assert "another node" in await refused(disk, await controller.order("a", token_for="b"))


async def test_a_token_serves_one_node_once(controller: Controller, clock: MovingClock, disk: MemoryDisk) -> None:
    """A copy of the join file in other hands is worth nothing once the node has joined."""
    order = await controller.order()
    write(disk, order)
    await enrolment(disk, clock).member()
    assert "used" in await refused(MemoryDisk(), order)


async def test_a_token_dies_of_age(controller: Controller, clock: MovingClock, disk: MemoryDisk) -> None:
    order = await controller.order()
    clock.now += TTL_S + 1
    assert "expired" in await refused(disk, order)


async def test_a_certificate_for_another_name_is_not_taken(clock: MovingClock, disk: MemoryDisk) -> None:
    """What comes back is checked against what was asked for."""
    async with running((liar := Controller(clock, honest=False)).server):  # type: ignore[abstract]
        assert "another" in await refused(disk, await liar.order())


async def test_a_new_token_is_taken_up_at_once(controller: Controller, disk: MemoryDisk) -> None:
    """After a refusal the agent waits long, but not when the driver writes another order."""
    write(disk, await controller.order() | {"token": "0" * 16 + "." + "x" * 43})
    fresh = await controller.order()

    class Driver(MovingClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            write(disk, fresh)

    driver = Driver()
    assert (await enrolment(disk, driver).member()).node == "a"
    assert sum(driver.slept) < 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"node": 1}', b'{"node": "a"}', b"\xff"])
async def test_a_broken_order_is_waited_out(controller: Controller, disk: MemoryDisk, content: bytes) -> None:
    disk.files[JOIN] = content
    fresh = await controller.order()

    class Driver(MovingClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            write(disk, fresh)

    assert (await enrolment(disk, Driver()).member()).node == "a"


@pytest.mark.parametrize("point", ["join.key_saved", "join.answered", "join.saved"])
async def test_a_crash_while_joining_is_harmless(
    controller: Controller, clock: MovingClock, disk: MemoryDisk, crash_at: list[str], point: str
) -> None:
    """Wherever the agent dies, the next one joins: the key was durable before the token was spent."""
    write(disk, await controller.order())
    crash_at.append(point)
    with pytest.raises(KeyboardInterrupt):
        await enrolment(disk, clock)._member_once()
    member = await enrolment(disk, clock).member()
    assert member.node == "a"
    assert tls.usable(member.credentials, controller.ca.spki_sha256, clock.now)
    assert "token" not in json.loads(disk.files[JOIN])


@pytest.mark.parametrize("name", ["key.pem", "ca.pem", "cert.pem", "join.json"])
async def test_a_full_disk_while_joining_is_harmless(controller: Controller, disk: MemoryDisk, name: str) -> None:
    """The join is tried again when there is room."""
    write(disk, await controller.order())
    disk.fail = {name}

    class Room(MovingClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            disk.fail = set()

    assert (await enrolment(disk, Room()).member()).node == "a"


async def test_the_controllers_absence_is_waited_out(controller: Controller, disk: MemoryDisk) -> None:
    """With growing, jittered pauses, for as long as it takes."""
    real, calls = GrpcAuthority(), 0

    class Away(GrpcAuthority):
        async def join(self, file: JoinFile, csr_pem: bytes) -> sync.JoinResponse:
            nonlocal calls
            calls += 1
            if calls < 6:
                raise Unavailable("nobody")
            return await real.join(file, csr_pem)

    clock = MovingClock()
    write(disk, await controller.order())
    assert (await enrolment(disk, clock, Away()).member()).node == "a"
    assert 0.5 * (0.5 + 1 + 2 + 4 + 8) <= sum(clock.slept) <= 0.5 + 1 + 2 + 4 + 8


async def test_another_cluster_takes_over_a_node_with_old_files(
    controller: Controller, clock: MovingClock, disk: MemoryDisk
) -> None:
    """The order's pin says which cluster counts."""
    write(disk, await controller.order())
    old = await enrolment(disk, clock).member()
    async with running((other := Controller(clock, seed=7)).server):  # type: ignore[abstract]
        write(disk, await other.order())
        new = await enrolment(disk, clock).member()
    assert new.credentials.ca_pem == other.ca.ca_pem != old.credentials.ca_pem


class TestRenewal:
    """Certificates are replaced in time, over the old one."""

    async def renewals(
        self, member: Member, disk: MemoryDisk, clock: MovingClock, count: int, authority: Authority | None = None
    ) -> list[Credentials]:
        seen: list[Credentials] = []
        enough = asyncio.Event()

        def renewed(credentials: Credentials) -> None:
            seen.append(credentials)
            if len(seen) == count:
                enough.set()

        task = asyncio.ensure_future(enrolment(disk, clock, authority).keep_renewed(member, renewed))
        await asyncio.wait_for(enough.wait(), 30)
        task.cancel()
        await asyncio.wait([task])
        return seen[:count]

    async def test_at_70_to_90_percent_of_life(self, controller: Controller, disk: MemoryDisk) -> None:
        """The key stays, the certificate is new, on disk too, and the controller knows it."""
        write(disk, await controller.order())
        clock = MovingClock()
        member = await enrolment(disk, clock).member()
        started, first = clock.now, member.credentials
        (second,) = await self.renewals(member, disk, clock, 1)
        assert 0.7 * DAY_S - 60 <= clock.now - started <= 0.9 * DAY_S + 120
        assert second.key_pem == first.key_pem
        assert second.certificate_pem != first.certificate_pem
        assert disk.files[STATE / "cert.pem"] == second.certificate_pem
        assert controller.ca.refusal(tls.identity_of(second.certificate_pem)) == ""

    async def test_failures_are_tried_again(self, controller: Controller, disk: MemoryDisk) -> None:
        """A controller that is away for hours costs nothing: there is time left."""
        write(disk, await controller.order())
        clock, real, calls = MovingClock(), GrpcAuthority(), 0
        member = await enrolment(disk, clock).member()

        class Away(GrpcAuthority):
            async def renew(self, member: Member, csr_pem: bytes) -> sync.RenewCertificateResponse:
                nonlocal calls
                calls += 1
                if calls < 10:
                    raise Unavailable("nobody")
                return await real.renew(member, csr_pem)

        started = clock.now
        await self.renewals(member, disk, clock, 1, Away())
        assert clock.now - started < DAY_S

    async def test_an_expired_node_waits_for_a_new_token(self, controller: Controller, disk: MemoryDisk) -> None:
        """Nobody is let back in on old papers."""
        write(disk, await controller.order())
        member = await enrolment(disk, MovingClock()).member()
        old = member.credentials
        fresh = await controller.order()

        class Asleep(MovingClock):
            """Sleeps through the certificate's life; the driver then starts the node with a new order."""

            async def sleep(self, seconds: float) -> None:
                await super().sleep(seconds)
                if self.now > tls.expires_at(old.certificate_pem):
                    controller.clock.now = self.now
                    write(disk, fresh | {"token": (await controller.tokens.issue("a")).token})

        class Closed(GrpcAuthority):
            async def renew(self, member: Member, csr_pem: bytes) -> sync.RenewCertificateResponse:
                raise Unavailable("nobody")

            async def join(self, file: JoinFile, csr_pem: bytes) -> sync.JoinResponse:
                request = sync.JoinRequest(token=file.token, node=file.node, csr_pem=csr_pem)
                key = tls.csr_spki_sha256(csr_pem)
                await controller.tokens.redeem(request.token, request.node, key, "10.0.0.1")
                return sync.JoinResponse(
                    certificate_pem=controller.ca.sign_node(csr_pem, file.node), ca_pem=controller.ca.ca_pem
                )

        (new,) = await self.renewals(member, disk, Asleep(), 1, Closed())
        assert tls.expires_at(new.certificate_pem) > tls.expires_at(old.certificate_pem) + DAY_S / 2


async def test_the_token_is_in_no_log(controller: Controller, clock: MovingClock, disk: MemoryDisk) -> None:
    """Not when joining, not when refused, not in what can be printed."""
    order = await controller.order()
    write(disk, order)
    with logs() as out:
        await enrolment(disk, clock).member()
        await refused(MemoryDisk(), order)
    secret = order["token"].split(".")[1]
    assert "joined" in out.getvalue()
    assert "Join" in out.getvalue()
    assert secret not in out.getvalue()
    assert secret not in repr(JoinFile(**order))
