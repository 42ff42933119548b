"""Who may call what: every RPC of every proto with every kind of caller, against real servers with the real gate and the real tables.

The expectation below is written by service, on purpose apart from the tables: a table that grows too generous fails here, and a new
RPC or service that nobody decided about fails in two places.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import controller.authz
import nodeagent.authz
from podwire import rpc, tls
from podwire.identity import CONTROLLER_HOST, Credentials, Role, node_host
from podwire.seams import SeededRng, SystemClock
from tests.unit.security import DAY_S, MovingClock, attempt, authority, methods, permissive, running, services

MAY_CALL = {
    "podwire.api.v1.ControlService": {Role.USER, Role.ADMIN},
    "podwire.api.v1.NodeSyncService": {Role.NODE},
    "podwire.api.v1.JoinService": set(Role),
    "podwire.api.v1.NodeAgentService": {Role.CONTROLLER},
}
OF_AGENT = "podwire.api.v1.NodeAgentService"
RNG = SeededRng(3)


@dataclass(frozen=True)
class Site:
    """A controller and an agent, each with its listeners."""

    ca: tls.CertificateAuthority
    control_port: int
    join_port: int
    agent_port: int
    socket: Path
    revoked: Credentials


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    clock = SystemClock()
    ca = authority()
    revoked = ca.issue(Role.USER, "gone", clock=clock, rng=RNG)
    denied = tls.fingerprint(revoked.certificate_pem)
    control = rpc.server(
        controller.authz.TABLE,
        "lab",
        clock=clock,
        rng=RNG,
        refuse=lambda who: "revoked" if who.fingerprint == denied else "",
    )
    agent = rpc.server(nodeagent.authz.TABLE, "lab", clock=clock, rng=RNG)
    for service in services():
        (agent if service.full_name == OF_AGENT else control).add_generic_rpc_handlers((permissive(service),))
    of_controller = ca.issue(Role.CONTROLLER, "", clock=clock, rng=RNG)
    of_node = ca.issue(Role.NODE, "a", clock=clock, rng=RNG)
    control_port = rpc.listen_tls(control, "127.0.0.1", 0, rpc.ServerCredentials(of_controller))
    join_port = rpc.listen_tls(control, "127.0.0.1", 0, rpc.ServerCredentials(of_controller, ask_client=False))
    agent_port = rpc.listen_tls(agent, "127.0.0.1", 0, rpc.ServerCredentials(of_node))
    rpc.listen_unix(control, tmp_path / "control.sock")
    async with running(control), running(agent):
        yield Site(ca, control_port, join_port, agent_port, tmp_path / "control.sock", revoked)


def issued(role: Role, name: str = "", *, cluster: str = "lab", offset_s: float = 0.0) -> Callable[[Site], Credentials]:
    """Papers that the site's CA made, perhaps in the past, perhaps in another cluster's name."""

    def make(site: Site) -> Credentials:
        ca = tls.CertificateAuthority(cluster, site.ca.key, site.ca.certificate)
        return ca.issue(role, name, clock=MovingClock(offset_s), rng=RNG)

    return make


def stranger(site: Site) -> Credentials:
    """Papers of another CA that calls itself by the same cluster's name; its holder trusts ours."""
    foreign = authority(seed=2).issue(Role.USER, "u", clock=SystemClock(), rng=RNG)
    return Credentials(foreign.key_pem, foreign.certificate_pem, site.ca.ca_pem)


def crafted(uris: list[str], usage: x509.ObjectIdentifier) -> Callable[[Site], Credentials]:
    """Papers that our CA would never make, signed with its key all the same."""

    def make(site: Site) -> Credentials:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "crafted")]))
            .issuer_name(site.ca.certificate.subject)
            .public_key(key.public_key())
            .serial_number(7)
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris]), False)
            .add_extension(x509.ExtendedKeyUsage([usage]), False)
            .sign(site.ca.key, hashes.SHA256())
        )
        encoding = serialization.Encoding.PEM
        key_pem = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return Credentials(key_pem, certificate.public_bytes(encoding), site.ca.ca_pem)

    return make


CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
Papers = Callable[[Site], Credentials]

# name, papers, the role that must be seen, or the status that must meet every call
CALLERS: list[tuple[str, Papers, Role | str]] = [
    ("a user", issued(Role.USER, "u"), Role.USER),
    ("a node", issued(Role.NODE, "a"), Role.NODE),
    ("another node", issued(Role.NODE, "b"), Role.NODE),
    ("the controller", issued(Role.CONTROLLER), Role.CONTROLLER),
    ("another CA", stranger, "UNAVAILABLE"),
    ("expired user", issued(Role.USER, "u", offset_s=-2 * DAY_S), "UNAVAILABLE"),
    ("expired node", issued(Role.NODE, "a", offset_s=-2 * DAY_S), "UNAVAILABLE"),
    ("not yet valid", issued(Role.USER, "u", offset_s=2 * DAY_S), "UNAVAILABLE"),
    ("a server's certificate", crafted(["spiffe://lab/user/u"], SERVER), "UNAVAILABLE"),
    ("another cluster", issued(Role.USER, "u", cluster="other"), "UNAUTHENTICATED"),
    ("two identities", crafted(["spiffe://lab/user/u", "spiffe://lab/node/a"], CLIENT), "UNAUTHENTICATED"),
    ("no identity we know", crafted(["spiffe://lab/admin/root"], CLIENT), "UNAUTHENTICATED"),
    ("the admin by certificate", crafted(["spiffe://lab/admin"], CLIENT), "UNAUTHENTICATED"),
    ("a web address", crafted(["https://lab/user/u"], CLIENT), "UNAUTHENTICATED"),
]


def expected(name: str, seen: Role | str) -> str:
    if not isinstance(seen, Role):
        return seen
    if seen in MAY_CALL[name.split("/")[1]]:
        return "OK"
    return "UNAUTHENTICATED" if seen is Role.ANONYMOUS else "PERMISSION_DENIED"


async def outcomes(control: grpc.aio.Channel | None, agent: grpc.aio.Channel | None) -> dict[str, str]:
    """How every call ends, each made to the server it belongs to."""
    ended = {}
    for name, method in methods().items():
        channel = agent if name.split("/")[1] == OF_AGENT else control
        if channel is not None:
            ended[name] = await attempt(channel, name, method)
    return ended


@pytest.mark.parametrize(("papers", "seen"), [case[1:] for case in CALLERS], ids=[case[0] for case in CALLERS])
async def test_papers(site: Site, papers: Papers, seen: Role | str) -> None:
    """A caller with a certificate gets what its role may, on both servers, and nothing with a bad one."""
    held = papers(site)
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(rpc.channel("127.0.0.1", site.control_port, held, CONTROLLER_HOST))
        agent = await stack.enter_async_context(rpc.channel("127.0.0.1", site.agent_port, held, node_host("a")))
        ended = await outcomes(control, agent)
    assert ended == {name: expected(name, seen) for name in methods()}


async def test_no_certificate(site: Site) -> None:
    """Without a certificate the handshake fails."""
    async with (
        rpc.stranger_channel("127.0.0.1", site.control_port, site.ca.ca_pem) as control,
        rpc.stranger_channel("127.0.0.1", site.agent_port, site.ca.ca_pem, node_host("a")) as agent,
    ):
        assert set((await outcomes(control, agent)).values()) == {"UNAVAILABLE"}


async def test_no_certificate_where_joins_are_taken(site: Site) -> None:
    """The listener for joins lets strangers in, to Join and to nothing else."""
    async with rpc.stranger_channel("127.0.0.1", site.join_port, site.ca.ca_pem) as control:
        ended = await outcomes(control, None)
    assert ended == {name: expected(name, Role.ANONYMOUS) for name in ended}


async def test_certificates_count_for_nothing_where_joins_are_taken(site: Site) -> None:
    """That listener asks for no certificate, so nobody is anybody there."""
    held = site.ca.issue(Role.USER, "u", clock=SystemClock(), rng=RNG)
    async with rpc.channel("127.0.0.1", site.join_port, held) as control:
        ended = await outcomes(control, None)
    assert ended == {name: expected(name, Role.ANONYMOUS) for name in ended}


@pytest.mark.parametrize("port", ["control_port", "join_port", "agent_port"])
async def test_plaintext(site: Site, port: str) -> None:
    """No TCP listener speaks without TLS."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{getattr(site, port)}") as channel:
        assert set((await outcomes(channel, channel)).values()) == {"UNAVAILABLE"}


async def test_unix_socket(site: Site) -> None:
    """Whoever can open the socket is the admin; only its owner can."""
    assert site.socket.stat().st_mode & 0o777 == 0o600
    async with rpc.unix_channel(site.socket) as control:
        ended = await outcomes(control, None)
    assert ended == {name: expected(name, Role.ADMIN) for name in ended}


async def test_revoked(site: Site) -> None:
    """A certificate on the deny-list is refused where its role would be let in, with a fresh one's rights elsewhere."""
    async with rpc.channel("127.0.0.1", site.control_port, site.revoked) as control:
        ended = await outcomes(control, None)
    assert set(ended.values()) <= {"UNAUTHENTICATED", "PERMISSION_DENIED"}


def test_every_rpc_has_an_entry() -> None:
    """An RPC without an entry would be refused for everybody; one that is gone should leave no entry behind."""
    of_controller = {name for name in methods() if name.split("/")[1] != OF_AGENT}
    of_agent = set(methods()) - of_controller
    health = {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"}
    assert set(controller.authz.TABLE) - health == of_controller
    assert set(nodeagent.authz.TABLE) - health == of_agent
    assert {service.full_name for service in services()} == set(MAY_CALL)


async def test_an_rpc_without_an_entry_is_refused(tmp_path: Path) -> None:
    """Even for the admin."""
    server = rpc.server({}, "lab", clock=SystemClock(), rng=RNG)
    for service in services():
        server.add_generic_rpc_handlers((permissive(service),))
    rpc.listen_unix(server, tmp_path / "s")
    async with running(server), rpc.unix_channel(tmp_path / "s") as channel:
        assert set((await outcomes(channel, channel)).values()) == {"PERMISSION_DENIED"}
