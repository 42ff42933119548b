"""Who is on the other side, and with what papers: identities as certificates spell them, and credentials as files hold them.

In: the URI of a verified certificate, or three PEM files. Out: `Identity` and `Credentials`. Nothing here makes or checks a
certificate (`podwire.tls` does), so the command line can load its papers without paying for a cryptography library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from podwire.errors import Unauthenticated
from podwire.seams import Disk

CONTROLLER_HOST = (
    "controller"  # DNS name in the controller's certificate: clients ask for it, whatever address they dialled
)
_URI = re.compile(r"spiffe://([a-z0-9][-a-z0-9]{0,62})/(node|user)/([a-z0-9][-a-z0-9.]{0,252})")
_CONTROLLER_URI = re.compile(r"spiffe://([a-z0-9][-a-z0-9]{0,62})/controller")


class Role(StrEnum):
    """What a caller is. The first three are in certificates; the others are how a caller came."""

    NODE = "node"
    CONTROLLER = "controller"
    USER = "user"
    ADMIN = "admin"  # over the controller's Unix socket, which only its owner can open
    ANONYMOUS = "anonymous"  # over TLS without a certificate: only where a listener asks for none


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller. `fingerprint` is the SHA-256 of its certificate in hex, or empty; it takes no part in equality."""

    role: Role
    name: str = ""
    cluster: str = ""
    fingerprint: str = field(default="", compare=False)

    @property
    def uri(self) -> str:
        """The identity as a certificate's URI spells it."""
        tail = "controller" if self.role is Role.CONTROLLER else f"{self.role}/{self.name}"
        return f"spiffe://{self.cluster}/{tail}"

    def __str__(self) -> str:
        return f"{self.role} {self.name}" if self.name else str(self.role)


def parse_uri(uri: str, fingerprint: str = "") -> Identity:
    """The identity in a certificate's URI; raises Unauthenticated for any other spelling."""
    if match := _CONTROLLER_URI.fullmatch(uri):
        return Identity(Role.CONTROLLER, "", match[1], fingerprint)
    if match := _URI.fullmatch(uri):
        return Identity(Role(match[2]), match[3], match[1], fingerprint)
    raise Unauthenticated(f"certificate names {uri[:200]!r}, which is not an identity of a podwire cluster")


def server_name(identity: Identity) -> str:
    """The DNS name in the certificate of a node or of the controller: what a client must ask for (`override_name`)."""
    return CONTROLLER_HOST if identity.role is Role.CONTROLLER else node_host(identity.name)


def node_host(node: str) -> str:
    """The DNS name in a node's certificate."""
    return f"node.{node}"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key, the certificate for it, and the CAs to trust (one, or two while one takes over from the other)."""

    key_pem: bytes = field(repr=False)
    certificate_pem: bytes
    ca_pem: bytes

    @property
    def chain_pem(self) -> bytes:
        """What a server presents: its certificate and the CAs, so that a joining agent can find the one it has a pin of."""
        return self.certificate_pem + self.ca_pem


def load_credentials(
    disk: Disk, directory: Path, certificate: str = "cert.pem", key: str = "key.pem"
) -> Credentials | None:
    """Reads the three files; None when one is missing."""
    parts = [disk.read(directory / name) for name in (key, certificate, "ca.pem")]
    key_pem, certificate_pem, ca_pem = parts
    if key_pem is None or certificate_pem is None or ca_pem is None:
        return None
    return Credentials(key_pem, certificate_pem, ca_pem)


def save_credentials(
    disk: Disk, directory: Path, credentials: Credentials, certificate: str = "cert.pem", key: str = "key.pem"
) -> None:
    """Writes the three files, the certificate last: where it is, the others are."""
    disk.replace(directory / key, credentials.key_pem)
    disk.replace(directory / "ca.pem", credentials.ca_pem)
    disk.replace(directory / certificate, credentials.certificate_pem)
