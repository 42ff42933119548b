"""The cluster's CA as the controller keeps it: a directory of mode 0700, and the certificates made from it.

In: a state directory. Out: the controller's own credentials (made anew at each start, never on disk), certificates for joining and
renewing nodes, credentials for users, and what to answer when a certificate is shown that must not count any more: `refusal` plugs
into `podwire.rpc.server(refuse=…)`. Who may get a certificate is decided before: by a token, or by the one it replaces.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from podwire import tls
from podwire.identity import Credentials, Identity, Role
from podwire.seams import Clock, Disk, Rng

USER_LIFETIME_S = 365 * 24 * 3600.0  # a user's are as good as the directory they lie in


class _Ledger(msgspec.Struct):
    """Fingerprint → end of life (seconds since 1970) of each node certificate that is alive, and of each that is denied."""

    issued: dict[str, dict[str, float]] = msgspec.field(default_factory=dict)
    denied: dict[str, float] = msgspec.field(default_factory=dict)


class ClusterCA:
    """Issues and denies certificates of one cluster."""

    def __init__(
        self, authority: tls.CertificateAuthority, directory: Path, *, clock: Clock, rng: Rng, disk: Disk
    ) -> None:
        self._authority = authority
        self._ledger_file = directory / "certificates.json"
        self._clock = clock
        self._rng = rng
        self._disk = disk
        content = disk.read(self._ledger_file)
        self._ledger = msgspec.json.decode(content, type=_Ledger) if content else _Ledger()

    @classmethod
    def open(cls, cluster: str, directory: Path, *, clock: Clock, rng: Rng, disk: Disk) -> ClusterCA:
        """The CA of a directory, made where there is none. The directory must be the CA's own: the disk makes it with mode 0700."""
        authority = tls.load_ca(cluster, directory, disk)
        if authority is None:
            authority = tls.make_ca(cluster, clock, rng)
            tls.save_ca(authority, directory, disk)
        return cls(authority, directory, clock=clock, rng=rng, disk=disk)

    @property
    def ca_pem(self) -> bytes:
        """Every CA certificate that is valid now."""
        return self._authority.ca_pem

    @property
    def spki_sha256(self) -> str:
        """The pin for joining nodes, in hex."""
        return self._authority.spki_sha256

    def issue_controller(self) -> Credentials:
        """The controller's own, for its listeners and for calling agents."""
        return self._authority.issue(Role.CONTROLLER, "", clock=self._clock, rng=self._rng)

    def issue_user(self, name: str, lifetime_s: float = USER_LIFETIME_S) -> Credentials:
        """Credentials for a user."""
        return self._authority.issue(Role.USER, name, clock=self._clock, rng=self._rng, lifetime_s=lifetime_s)

    def sign_node(self, csr_pem: bytes, node: str) -> bytes:
        """A certificate for a node's key; on record before it is given away. Raises InvalidInput for a bad request."""
        certificate = self._authority.issue_from_csr(csr_pem, Role.NODE, node, clock=self._clock, rng=self._rng)
        self._ledger.issued.setdefault(node, {})[tls.fingerprint(certificate)] = tls.expires_at(certificate)
        self._save()
        return certificate

    def deny_node(self, node: str) -> None:
        """No certificate that this node has counts from now on: it was deleted. One that joins anew under the name gets another."""
        self._ledger.denied |= self._ledger.issued.pop(node, {})
        self._save()

    def refusal(self, identity: Identity) -> str:
        """Why a caller with a valid certificate is to be refused; empty when it is not."""
        return "its certificate is revoked" if identity.fingerprint in self._ledger.denied else ""

    def _save(self) -> None:
        now = self._clock.wall()
        alive = {
            node: {mark: end for mark, end in marks.items() if end > now} for node, marks in self._ledger.issued.items()
        }
        self._ledger.issued = {node: marks for node, marks in alive.items() if marks}
        self._ledger.denied = {mark: end for mark, end in self._ledger.denied.items() if end > now}
        self._disk.replace(self._ledger_file, msgspec.json.encode(self._ledger))
