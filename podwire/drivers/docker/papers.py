"""A user's way to the controller of a docker cluster: whose address it is, and whether the credentials at hand still count.

In: an address on the loopback and a directory with ca.pem, client.pem and client.key. Out: yes or no, by a TLS handshake of a few
milliseconds; a published port changes with every start of the container, and what listens there may be somebody else by then.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
from pathlib import Path

from podwire.identity import CONTROLLER_HOST

CERTIFICATE, KEY, CA = "client.pem", "client.key", "ca.pem"
HANDSHAKE_TIMEOUT_S = 2.0


def answers(address: str, credentials: Path) -> bool:
    """Whether this cluster's controller answers there and takes our certificate: a port alone may be anyone's by now."""
    if not all((credentials / name).exists() for name in (CERTIFICATE, KEY, CA)):
        return False
    host, _, port = address.rpartition(":")
    try:
        context = ssl.create_default_context(cafile=str(credentials / CA))
        context.load_cert_chain(credentials / CERTIFICATE, credentials / KEY)
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((host, int(port)), timeout=HANDSHAKE_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=CONTROLLER_HOST) as secure,
        ):
            # With TLS 1.3 a server judges our certificate after the handshake; its first frame (HTTP/2 SETTINGS) is the verdict.
            return bool(secure.recv(9))
    except (OSError, ValueError):
        return False


def user_name() -> str:
    """This user's name as a certificate can carry it."""
    name = os.environ.get("SUDO_USER") or os.environ.get("USER") or f"uid-{os.geteuid()}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63] or f"uid-{os.geteuid()}"
