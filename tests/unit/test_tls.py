"""Certificates: what they say, how long they live, and what no request can put into them."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from podwire import tls
from podwire.errors import InvalidInput, PodwireError, Unauthenticated
from podwire.identity import Credentials, Identity, Role, load_credentials, parse_uri, save_credentials
from podwire.seams import SeededRng, SystemDisk
from tests.unit.security import DAY_S, MemoryDisk, MovingClock, authority

CLOCK, RNG = MovingClock(), SeededRng(2)
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH

KINDS = [
    (Role.NODE, "a", "spiffe://lab/node/a", ["node.a"], {CLIENT, SERVER}),
    (Role.CONTROLLER, "", "spiffe://lab/controller", ["controller"], {CLIENT, SERVER}),
    (Role.USER, "ann", "spiffe://lab/user/ann", [], {CLIENT}),
]


@pytest.mark.parametrize(("role", "name", "uri", "hosts", "usages"), KINDS, ids=[str(kind[0]) for kind in KINDS])
def test_what_a_certificate_says(
    role: Role, name: str, uri: str, hosts: list[str], usages: set[x509.ObjectIdentifier]
) -> None:
    """One URI, the DNS name clients ask for, the usages of its role, and no right to sign."""
    issued = authority().issue(role, name, clock=CLOCK, rng=RNG)
    certificate = x509.load_pem_x509_certificate(issued.certificate_pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [uri]
    assert names.get_values_for_type(x509.DNSName) == hosts
    assert set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == usages
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert tls.identity_of(issued.certificate_pem) == Identity(role, name, "lab")


def test_a_request_gets_its_key_signed_and_nothing_else() -> None:
    """Names, usages and CA flags that the request asks for are not heard."""
    key = ec.generate_private_key(ec.SECP256R1())
    greedy = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "controller")]))
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://lab/controller")]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    signed = authority().issue_from_csr(greedy, Role.NODE, "a", clock=CLOCK, rng=RNG)
    assert tls.identity_of(signed) == Identity(Role.NODE, "a", "lab")
    assert tls.spki_sha256(signed) == tls.csr_spki_sha256(greedy)
    assert not x509.load_pem_x509_certificate(signed).extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def _csr(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def _forged() -> bytes:
    """A request for somebody else's key: its signature is by another one."""
    mine, theirs = (x509.load_pem_x509_csr(_csr(ec.generate_private_key(ec.SECP256R1()))) for _ in range(2))
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    der = mine.public_bytes(serialization.Encoding.DER).replace(
        mine.public_key().public_bytes(encoding, form), theirs.public_key().public_bytes(encoding, form)
    )
    return x509.load_der_x509_csr(der).public_bytes(serialization.Encoding.PEM)


BAD_REQUESTS = {
    "empty": b"",
    "no PEM": b"hello",
    "torn": _csr(ec.generate_private_key(ec.SECP256R1()))[:150],
    "another curve": _csr(ec.generate_private_key(ec.SECP384R1())),
    "RSA": _csr(rsa.generate_private_key(65537, 2048)),
    "signed by another key": _forged(),
    "huge": b"x" * 1_000_000,
}


@pytest.mark.parametrize("request_pem", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_is_refused(request_pem: bytes) -> None:
    with pytest.raises(InvalidInput, match="csr_pem"):
        authority().issue_from_csr(request_pem, Role.NODE, "a", clock=CLOCK, rng=RNG)


def test_renewal_falls_between_70_and_90_percent_of_life() -> None:
    """Whatever the jitter, with time left to outlive a controller that is away for a while."""
    clock = MovingClock()
    certificate = authority().issue(Role.NODE, "a", clock=clock, rng=RNG).certificate_pem
    for jitter, hours in ((0.0, 16.8), (0.5, 19.2), (1.0, 21.6)):
        due = clock.now + hours * 3600
        assert tls.renewal_at(certificate, jitter) == pytest.approx(due, abs=1)
        assert not tls.needs_renewal(certificate, due - 5, jitter)
        assert tls.needs_renewal(certificate, due + 5, jitter)
    assert tls.expires_at(certificate) == pytest.approx(clock.now + DAY_S, abs=1)


def test_a_peer_whose_clock_is_behind_accepts_a_new_certificate() -> None:
    clock = MovingClock()
    certificate = x509.load_pem_x509_certificate(
        authority().issue(Role.NODE, "a", clock=clock, rng=RNG).certificate_pem
    )
    assert certificate.not_valid_before_utc.timestamp() <= clock.now - 299


def test_a_ca_survives_a_restart(tmp_path: Path) -> None:
    """In files that only their owner can read, in a directory likewise."""
    ca = authority()
    home = tmp_path / "state" / "ca"
    assert tls.load_ca("lab", home, SystemDisk()) is None
    tls.save_ca(ca, home, SystemDisk())
    again = tls.load_ca("lab", home, SystemDisk())
    assert again is not None
    assert (again.spki_sha256, again.ca_pem) == (ca.spki_sha256, ca.ca_pem)
    assert home.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in home.iterdir()} == {0o600}


def test_a_bundle_with_two_cas_survives_too() -> None:
    disk, both = MemoryDisk(), authority().trusting(authority(seed=8))
    tls.save_ca(both, Path("/ca"), disk)
    again = tls.load_ca("lab", Path("/ca"), disk)
    assert again is not None
    assert again.ca_pem == both.ca_pem
    assert tls.matches_pin(again.ca_pem, authority().spki_sha256) is False
    assert tls.matches_pin(again.ca_pem, both.spki_sha256)


def test_a_ca_with_a_foreign_key_is_not_used() -> None:
    disk = MemoryDisk()
    tls.save_ca(authority(), Path("/ca"), disk)
    disk.files[Path("/ca/ca.key.pem")] = tls.make_key()
    with pytest.raises(InvalidInput, match="key"):
        tls.load_ca("lab", Path("/ca"), disk)


def test_credentials_are_whole_or_absent() -> None:
    """The certificate goes last: a crash in between leaves none."""
    issued = authority().issue(Role.USER, "u", clock=CLOCK, rng=RNG)
    for failing in ("key.pem", "ca.pem", "cert.pem"):
        disk = MemoryDisk()
        disk.fail = {failing}
        with pytest.raises(OSError, match="space"):
            save_credentials(disk, Path("/s"), issued)
        assert load_credentials(disk, Path("/s")) is None
    disk = MemoryDisk()
    save_credentials(disk, Path("/s"), issued)
    assert load_credentials(disk, Path("/s")) == issued


def test_usable_credentials() -> None:
    """Whole, alive, of the pinned CA."""
    clock, ca = MovingClock(), authority()
    good, other = (ca.issue(Role.NODE, "a", clock=clock, rng=RNG) for _ in range(2))
    now = clock.now
    assert tls.usable(good, ca.spki_sha256, now)
    assert tls.usable(good, "", now)
    assert not tls.usable(good, authority(seed=4).spki_sha256, now)
    assert not tls.usable(good, "", now + 2 * DAY_S)
    assert not tls.usable(Credentials(other.key_pem, good.certificate_pem, good.ca_pem), "", now)
    assert not tls.usable(Credentials(good.key_pem, good.certificate_pem[:99], good.ca_pem), "", now)
    assert not tls.usable(Credentials(b"", good.certificate_pem, good.ca_pem), "", now)


def test_keys_are_not_printed() -> None:
    issued = authority().issue(Role.USER, "u", clock=CLOCK, rng=RNG)
    assert "PRIVATE" not in repr(issued)
    assert "PRIVATE" not in repr(authority())


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://lab",
        "spiffe://lab/node",
        "spiffe://lab/node/",
        "spiffe://lab/node/a/b",
        "spiffe://lab/node/a\n",
        "spiffe://LAB/node/a",
        "spiffe://lab/node/../user/x",
        "spiffe://lab/admin/x",
        "spiffe://lab/anonymous",
        "spiffe://lab/controller/x",
        "spiffe://lab@evil/node/a",
        "https://lab/node/a",
    ],
)
def test_what_is_no_identity(uri: str) -> None:
    with pytest.raises(Unauthenticated):
        parse_uri(uri)


@pytest.mark.parametrize("content", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate(content: bytes) -> None:
    for reads in (tls.identity_of, tls.spki_sha256, tls.expires_at):
        with pytest.raises(PodwireError):
            reads(content)
