"""Server certificates of hosted programs: the user's files, or one made up where upstream's image has its `localhost.crt`.

In: the paths that flags or the environment name. Out: an SSL context, or NetError. The made-up certificate is signed by a CA that is
thrown away at once; as with upstream's, clients elsewhere have to skip verification. Cryptography is imported only then.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path

from nodeagent.workload.sockets import NetError
from podwire.seams import SystemClock, SystemRng

DEFAULT_CERTIFICATE, DEFAULT_KEY = "localhost.crt", "localhost.key"


async def server_context(certificate: str, key: str, directory: Path) -> ssl.SSLContext:
    """TLS for a server; `directory` is the run's own. Raises NetError."""
    return await asyncio.to_thread(_server_context, certificate, key, directory)


def _server_context(certificate: str, key: str, directory: Path) -> ssl.SSLContext:
    place = Path(certificate)
    if place.name == DEFAULT_CERTIFICATE and not place.exists():
        certificate, key = str(directory / DEFAULT_CERTIFICATE), str(directory / DEFAULT_KEY)
        if not Path(certificate).exists():
            _make_up(Path(certificate), Path(key))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key or None)
    except (OSError, ssl.SSLError) as error:
        raise NetError("other", f"open {certificate}: {(error.strerror or str(error)).lower()}") from error
    return context


def _make_up(certificate: Path, key: Path) -> None:
    from podwire import tls  # noqa: PLC0415 - 13 MB that few containers need
    from podwire.identity import Role  # noqa: PLC0415

    clock, rng = SystemClock(), SystemRng()
    made = tls.make_ca("localhost", clock, rng).issue(
        Role.NODE, "localhost", clock=clock, rng=rng, lifetime_s=tls.CA_LIFETIME_S
    )
    with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(made.key_pem)
    certificate.write_bytes(made.certificate_pem)
