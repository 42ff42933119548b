"""How an agent comes by its identity, and keeps it: join once with a token, renew ever after.

In: STATE/join.json, which the driver writes (controller, join address, node, token, pin of the CA). Out: a `Member` with credentials
that are always fresh, on disk as key.pem, cert.pem and ca.pem. The order on disk makes every crash harmless: the key is durable before
the token is spent and stays the node's for good, and the controller answers the same key again; the token is removed from the file only
after the certificate is saved. The network is behind `Authority`, so the simulator and the tests pass their own.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from podwire import rpc, tls
from podwire.api.v1 import node_sync_pb2 as sync
from podwire.api.v1 import node_sync_pb2_grpc as sync_grpc
from podwire.errors import InvalidInput, PodwireError, Unauthenticated
from podwire.identity import Credentials, Role, load_credentials, save_credentials
from podwire.seams import Clock, Disk, Rng, failpoint
from podwire.telemetry import logger

LOOK_AGAIN_S = 0.02  # for a join file that is not there yet: `up` waits for this
REFUSED_S = 30.0  # after a refusal: only a new token helps, and guessing is rate limited
RETRY_S = (0.5, 30.0)  # first and longest pause when the controller does not answer
RENEW_RETRY_S = (5.0, 300.0)
CHECK_S = 60.0  # longest sleep between looks at the wall clock, which may have been set or slept through

_log = logger(__name__)


class JoinFile(msgspec.Struct):
    """STATE/join.json. Without a token it still says where the controller is."""

    controller: str
    join: str
    node: str
    ca_spki_sha256: str
    token: str = ""

    def __repr__(self) -> str:
        return f"JoinFile(node={self.node!r}, controller={self.controller!r})"


@dataclass(slots=True)
class Member:
    """An agent that belongs to a cluster. `credentials` is replaced at renewal: read it anew for each connection."""

    node: str
    cluster: str
    controller: str
    credentials: Credentials = field(repr=False)


class Authority(Protocol):
    """The controller, as far as certificates go."""

    async def join(self, file: JoinFile, csr_pem: bytes) -> sync.JoinResponse:
        """Trades the token; raises Unauthenticated when either side does not prove itself, Unavailable when nobody answers."""

    async def renew(self, member: Member, csr_pem: bytes) -> sync.RenewCertificateResponse:
        """A fresh certificate for a member."""


class GrpcAuthority:
    """The real one. Nothing is sent to a server before its CA has proved to be the pinned one."""

    async def join(self, file: JoinFile, csr_pem: bytes) -> sync.JoinResponse:
        host, port = rpc.split_address(file.join)
        ca_pem = await tls.fetch_ca(host, port, file.ca_spki_sha256)
        request = sync.JoinRequest(token=file.token, node=file.node, csr_pem=csr_pem)
        async with rpc.stranger_channel(host, port, ca_pem) as channel:
            return await rpc.call(sync_grpc.JoinServiceStub(channel).Join, request, doing=f"join as {file.node}")

    async def renew(self, member: Member, csr_pem: bytes) -> sync.RenewCertificateResponse:
        request = sync.RenewCertificateRequest(csr_pem=csr_pem)
        async with rpc.channel(*rpc.split_address(member.controller), member.credentials) as channel:
            stub = sync_grpc.NodeSyncServiceStub(channel)
            return await rpc.call(stub.RenewCertificate, request, doing=f"renew the certificate of {member.node}")


class Enrolment:
    """Joins and renews for one state directory."""

    def __init__(
        self, state_dir: Path, *, clock: Clock, rng: Rng, disk: Disk, authority: Authority | None = None
    ) -> None:
        self._state_dir = state_dir
        self._file = state_dir / "join.json"
        self._clock = clock
        self._rng = rng
        self._disk = disk
        self._authority = authority or GrpcAuthority()

    async def member(self) -> Member:
        """Waits until this node belongs to a cluster: at once when the disk says so, else once the driver's token has been traded."""
        pause = RETRY_S[0]
        complaint = ""
        while True:
            try:
                return await self._member_once()
            except _NotYet:
                wait, pause = LOOK_AGAIN_S, RETRY_S[0]
            except (InvalidInput, Unauthenticated) as error:
                wait, pause = REFUSED_S, RETRY_S[0]
                complaint = self._complain(complaint, error)
            except (PodwireError, OSError) as error:
                wait, pause = self._rng.uniform(pause / 2, pause), min(pause * 2, RETRY_S[1])
                complaint = self._complain(complaint, error)
            await self._wait_for_change(wait)

    async def keep_renewed(self, member: Member, renewed: Callable[[Credentials], None] = lambda _new: None) -> None:
        """Runs for ever: renews at 70 to 90 % of each certificate's life and tells `renewed`. With an expired one it waits for a new token."""
        while True:
            await self._sleep_until(tls.renewal_at(member.credentials.certificate_pem, self._rng.uniform(0, 1)))
            pause = RENEW_RETRY_S[0]
            while not await self._attempt(lambda: self._renew(member)):
                if tls.expires_at(member.credentials.certificate_pem) <= self._clock.wall():
                    member.credentials = (await self.member()).credentials
                    break
                await self._clock.sleep(self._rng.uniform(pause / 2, pause))
                pause = min(pause * 2, RENEW_RETRY_S[1])
            renewed(member.credentials)

    async def _member_once(self) -> Member:
        file = self._read()
        credentials = load_credentials(self._disk, self._state_dir)
        pin = (
            file.ca_spki_sha256 if file.token else ""
        )  # without a new order to join, the cluster's CA may have been succeeded
        if credentials is None or not tls.usable(credentials, pin, self._clock.wall()):
            if not file.token:
                raise _NotYet
            credentials = await self._join(file)
        if file.token:
            rest = {name: value for name, value in msgspec.to_builtins(file).items() if name != "token"}
            self._disk.replace(self._file, json.dumps(rest).encode())
        identity = tls.identity_of(credentials.certificate_pem)
        return Member(identity.name, identity.cluster, file.controller, credentials)

    async def _join(self, file: JoinFile) -> Credentials:
        key_pem = self._disk.read(self._state_dir / "key.pem")
        if key_pem is None:
            key_pem = tls.make_key()
            self._disk.replace(self._state_dir / "key.pem", key_pem)
        failpoint("join.key_saved")
        answer = await self._authority.join(file, tls.make_csr(key_pem, file.node))
        failpoint("join.answered")
        credentials = Credentials(key_pem, answer.certificate_pem, answer.ca_pem)
        self._check(credentials, file.node, file.ca_spki_sha256)
        save_credentials(self._disk, self._state_dir, credentials)
        failpoint("join.saved")
        _log.info("joined", node=file.node, controller=file.controller)
        return credentials

    async def _renew(self, member: Member) -> None:
        key_pem = member.credentials.key_pem
        answer = await self._authority.renew(member, tls.make_csr(key_pem, member.node))
        credentials = Credentials(key_pem, answer.certificate_pem, answer.ca_pem)
        self._check(credentials, member.node, "")
        save_credentials(self._disk, self._state_dir, credentials)
        member.credentials = credentials
        _log.info("certificate renewed", node=member.node)

    def _check(self, credentials: Credentials, node: str, pin: str) -> None:
        """What the controller signed must be what was asked for."""
        identity = tls.identity_of(credentials.certificate_pem)
        ours = identity.role is Role.NODE and identity.name == node
        if not ours or not tls.usable(credentials, pin, self._clock.wall()):
            raise Unauthenticated(
                f"the controller answered with a certificate for {identity}, not a valid one for node {node}"
            )

    async def _attempt(self, action: Callable[[], Awaitable[None]]) -> bool:
        try:
            await action()
        except (PodwireError, OSError) as error:
            _log.warning("certificate not renewed yet", error=str(error))
            return False
        return True

    def _read(self) -> JoinFile:
        content = self._disk.read(self._file)
        if content is None:
            raise _NotYet
        try:
            return msgspec.json.decode(content, type=JoinFile)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{self._file}: {error}") from error

    async def _wait_for_change(self, longest_s: float) -> None:
        """Sleeps, but wakes early when the driver writes the join file: a new token should not wait for an old one's back-off."""
        before = self._disk.read(self._file)
        until = self._clock.monotonic() + longest_s
        while (left := until - self._clock.monotonic()) > 0 and self._disk.read(self._file) == before:
            await self._clock.sleep(min(left, LOOK_AGAIN_S))

    async def _sleep_until(self, wall: float) -> None:
        while (left := wall - self._clock.wall()) > 0:
            await self._clock.sleep(min(left, CHECK_S))

    def _complain(self, before: str, error: Exception) -> str:
        """Logs a failure once, not at every attempt."""
        if str(error) != before:
            _log.warning("not joined yet", error=str(error))
        return str(error)


class _NotYet(Exception):
    """The driver has not written the join file, or there is no token in it for credentials that are missing."""
