"""Keys and certificates: ECDSA P-256, one CA per cluster, 24-hour leaves that name who holds them.

In: a cluster's name, certificate requests, and `Clock` and `Rng`. Out: PEM. A certificate's URI (`spiffe://CLUSTER/node/NAME`) is
the identity that servers judge by; its DNS name is what clients check. Names come from whoever issues, never from the request.
`podwire.rpc` builds channels from the results; `controller.ca` keeps the CA; `nodeagent.join` asks for certificates. The only
module that imports `cryptography`, which takes 80 ms to load: the command line stays clear of this one.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import socket
import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from podwire.errors import InvalidInput, Unauthenticated, Unavailable
from podwire.identity import CONTROLLER_HOST, Credentials, Identity, Role, parse_uri, server_name
from podwire.seams import Clock, Disk, Rng

LEAF_LIFETIME_S = 24 * 3600.0
CA_LIFETIME_S = 10 * 365 * 24 * 3600.0
CLOCK_SKEW_S = 300.0  # certificates start this much in the past, for peers whose clocks are behind
RENEW_FROM, RENEW_UNTIL = 0.7, 0.9  # of a certificate's life: early enough to outlive a controller that is away
MAX_CSR_BYTES = 16 * 1024
PROBE_TIMEOUT_S = 5.0

_CA_CERTIFICATES = "ca.pem"
_CA_KEY = "ca.key.pem"


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """Signs for one cluster. `trusted_pem` holds further CAs that are valid now, while one takes over from another."""

    cluster: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate = field(repr=False)
    trusted_pem: bytes = b""

    @property
    def ca_pem(self) -> bytes:
        """Every CA certificate that is valid now, the signing one first."""
        return _certificate_pem(self.certificate) + self.trusted_pem

    @property
    def spki_sha256(self) -> str:
        """The pin that joining agents are given, in hex."""
        return _spki(self.certificate)

    def trusting(self, other: CertificateAuthority) -> CertificateAuthority:
        """This CA, with another's certificate in the bundle. Rotation: spread `old.trusting(new)`, then sign with `new.trusting(old)`."""
        return CertificateAuthority(self.cluster, self.key, self.certificate, _certificate_pem(other.certificate))

    def issue_from_csr(
        self, csr_pem: bytes, role: Role, name: str, *, clock: Clock, rng: Rng, lifetime_s: float = LEAF_LIFETIME_S
    ) -> bytes:
        """A certificate for the request's key and for nothing else that stands in the request; raises InvalidInput."""
        return self._issue(_csr_key(csr_pem), Identity(role, name, self.cluster), clock, rng, lifetime_s)

    def issue(
        self, role: Role, name: str, *, clock: Clock, rng: Rng, lifetime_s: float = LEAF_LIFETIME_S
    ) -> Credentials:
        """A new key and its certificate: for the controller itself and for users, who get both from it."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._issue(key.public_key(), Identity(role, name, self.cluster), clock, rng, lifetime_s)
        return Credentials(_key_pem(key), certificate, self.ca_pem)

    def _issue(
        self, key: ec.EllipticCurvePublicKey, identity: Identity, clock: Clock, rng: Rng, lifetime_s: float
    ) -> bytes:
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if identity.role is not Role.USER:
            names.append(x509.DNSName(server_name(identity)))
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        builder = (
            _builder(_name(identity.name[:64] or CONTROLLER_HOST), self.certificate.subject, clock, rng, lifetime_s)
            .public_key(key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        return _certificate_pem(builder.sign(self.key, hashes.SHA256()))


def make_ca(cluster: str, clock: Clock, rng: Rng) -> CertificateAuthority:
    """A new CA, in memory; it can sign leaves only."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(f"podwire {cluster} {rng.name_suffix(8)}")
    certificate = (
        _builder(subject, subject, clock, rng, CA_LIFETIME_S)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return CertificateAuthority(cluster, key, certificate)


def save_ca(ca: CertificateAuthority, directory: Path, disk: Disk) -> None:
    """Writes the CA, the certificate last: where it is, its key is."""
    disk.replace(directory / _CA_KEY, _key_pem(ca.key))
    disk.replace(directory / _CA_CERTIFICATES, ca.ca_pem)


def load_ca(cluster: str, directory: Path, disk: Disk) -> CertificateAuthority | None:
    """The CA of a directory; None where there is none."""
    key_pem, ca_pem = disk.read(directory / _CA_KEY), disk.read(directory / _CA_CERTIFICATES)
    if key_pem is None or ca_pem is None:
        return None
    key = serialization.load_pem_private_key(key_pem, None)
    signing, *others = x509.load_pem_x509_certificates(ca_pem)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or signing.public_key() != key.public_key():
        raise InvalidInput(f"the CA in {directory} has a key that is not its certificate's: restore both from one copy")
    return CertificateAuthority(cluster, key, signing, b"".join(_certificate_pem(other) for other in others))


def make_key() -> bytes:
    """A new private key as PEM."""
    return _key_pem(ec.generate_private_key(ec.SECP256R1()))


def make_csr(key_pem: bytes, name: str) -> bytes:
    """A certificate request that proves possession of the key."""
    key = serialization.load_pem_private_key(key_pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InvalidInput(f"the key of {name} is not an elliptic-curve key")
    request = x509.CertificateSigningRequestBuilder().subject_name(_name(name)).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def make_key_and_csr(name: str) -> tuple[bytes, bytes]:
    """A new private key and a request for a certificate, both as PEM."""
    key_pem = make_key()
    return key_pem, make_csr(key_pem, name)


def csr_spki_sha256(csr_pem: bytes) -> str:
    """The fingerprint of a request's key, in hex; raises InvalidInput."""
    return _key_fingerprint(_csr_key(csr_pem))


def spki_sha256(certificate_pem: bytes) -> str:
    """The fingerprint of a certificate's key, in hex: what pins compare."""
    return _spki(_load(certificate_pem))


def fingerprint(certificate_pem: bytes) -> str:
    """The fingerprint of the certificate itself, in hex: what deny-lists compare."""
    return hashlib.sha256(_load(certificate_pem).public_bytes(serialization.Encoding.DER)).hexdigest()


def identity_of(certificate_pem: bytes) -> Identity:
    """Who a certificate names. It is not verified here; raises Unauthenticated when it names nobody of a podwire cluster."""
    certificate = _load(certificate_pem)
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise Unauthenticated("the certificate names no identity: it has no URI") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise Unauthenticated(f"the certificate names {len(uris)} identities instead of one")
    return parse_uri(uris[0], fingerprint(certificate_pem))


def expires_at(certificate_pem: bytes) -> float:
    """The end of a certificate's life, in seconds since 1970."""
    return _load(certificate_pem).not_valid_after_utc.timestamp()


def renewal_at(certificate_pem: bytes, jitter: float) -> float:
    """When to renew, in seconds since 1970: at 70 % of the certificate's life for jitter 0, at 90 % for jitter 1."""
    certificate = _load(certificate_pem)
    start = certificate.not_valid_before_utc.timestamp() + CLOCK_SKEW_S
    end = certificate.not_valid_after_utc.timestamp()
    return start + (end - start) * (RENEW_FROM + (RENEW_UNTIL - RENEW_FROM) * jitter)


def needs_renewal(certificate_pem: bytes, now: float, jitter: float) -> bool:
    """Whether `renewal_at` has come."""
    return now >= renewal_at(certificate_pem, jitter)


def usable(credentials: Credentials, pin: str, now: float) -> bool:
    """Whether credentials from a disk are whole, alive, and of the cluster whose CA has the pinned key (empty: of any)."""
    try:
        whole = spki_sha256(credentials.certificate_pem) == csr_spki_sha256(make_csr(credentials.key_pem, "check"))
        return (
            whole
            and expires_at(credentials.certificate_pem) > now
            and (not pin or matches_pin(credentials.ca_pem, pin))
        )
    except (ValueError, InvalidInput, Unauthenticated):  # a torn or foreign file
        return False


def matches_pin(ca_pem: bytes, pin: str) -> bool:
    """Whether one of the certificates has the pinned key."""
    return any(hmac.compare_digest(_spki(one), pin.lower()) for one in x509.load_pem_x509_certificates(ca_pem))


async def fetch_ca(host: str, port: int, pin: str) -> bytes:
    """The CA certificate with the pinned key, as the server at an address presents it.

    Nothing that the server says is trusted but what the pin proves; the caller then connects with this CA as the only one.

    Raises:
        Unavailable: nobody answered.
        Unauthenticated: whoever answered does not present the pinned CA.
    """
    try:
        chain = await asyncio.to_thread(_presented_chain, host, port)
    except (OSError, ssl.SSLError) as error:
        raise Unavailable(f"the controller at {host}:{port} does not answer: {error}") from error
    for der in chain:
        certificate = x509.load_der_x509_certificate(der)
        if hmac.compare_digest(_spki(certificate), pin.lower()):
            return _certificate_pem(certificate)
    raise Unauthenticated(
        f"the server at {host}:{port} does not present the cluster's CA: its key is not the pinned one",
        hint="make a new join token, and make sure nothing stands between this node and the controller",
    )


def _presented_chain(host: str, port: int) -> list[bytes]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # the pin replaces both: nobody is trusted yet
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])  # a gRPC server refuses a handshake without it
    with (
        socket.create_connection((host, port), PROBE_TIMEOUT_S) as raw,
        context.wrap_socket(raw, server_hostname=CONTROLLER_HOST) as wrapped,
    ):
        if hasattr(wrapped, "get_unverified_chain"):  # public since Python 3.13
            return [bytes(der) for der in wrapped.get_unverified_chain()]
        inner = wrapped._sslobj  # type: ignore[attr-defined]  # noqa: SLF001 - where the same function was before
        return [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in inner.get_unverified_chain()]


def _builder(
    subject: x509.Name, issuer: x509.Name, clock: Clock, rng: Rng, lifetime_s: float
) -> x509.CertificateBuilder:
    now = clock.wall()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .serial_number(int.from_bytes(rng.token(16)) | 1)
        .not_valid_before(datetime.fromtimestamp(now - CLOCK_SKEW_S, UTC))
        .not_valid_after(datetime.fromtimestamp(now + lifetime_s, UTC))
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _csr_key(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    field_name = "csr_pem"
    if len(csr_pem) > MAX_CSR_BYTES:
        raise InvalidInput(f"{field_name}: longer than {MAX_CSR_BYTES} bytes", field=field_name)
    try:
        request = x509.load_pem_x509_csr(csr_pem)
        key = request.public_key()
        genuine = request.is_signature_valid
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise InvalidInput(f"{field_name}: not a certificate request: {error}", field=field_name) from error
    if not genuine:
        raise InvalidInput(f"{field_name}: the request is not signed with its own key", field=field_name)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidInput(f"{field_name}: the key must be on curve P-256", field=field_name)
    return key


def _load(certificate_pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(certificate_pem)
    except ValueError as error:
        raise Unauthenticated(f"not a certificate: {error}") from error


def _spki(certificate: x509.Certificate) -> str:
    key = certificate.public_key()
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def _key_fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
