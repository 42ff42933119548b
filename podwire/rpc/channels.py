"""Servers, listeners and channels: the one place that knows gRPC's options.

In: credentials, addresses, and the table of `gate.py`. Out: a server with limits whose every call passes the gate, listeners with
TLS 1.3 or on a Unix socket (there is no plaintext one), and channels that notice a silent peer within 15 s. Listeners take renewed
certificates while running; a channel keeps those it was made with, so its owner makes a new one after a renewal.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # our processes only ever fork to exec
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # a refused handshake is logged by the gate's owner, not by the C core

import grpc
from google.protobuf.internal import api_implementation

from podwire.errors import AlreadyExists, InvalidInput, Unsupported
from podwire.identity import CONTROLLER_HOST, Credentials, Identity
from podwire.rpc.gate import Gate, Table
from podwire.seams import Clock, Rng

MAX_MESSAGE_BYTES = 4 * 1024 * 1024  # of a request, and of an answer to whom nothing larger was promised
MAX_ANSWER_BYTES = 64 * 1024 * 1024  # of the controller's answers to its users: a list is one message
MAX_METADATA_BYTES = 16 * 1024
MAX_STREAMS = 256  # per connection
MAX_CALLS = 1_024  # per server; above it callers are told RESOURCE_EXHAUSTED at once
KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS = 10_000, 5_000
MIN_PING_INTERVAL_MS = 5_000  # who pings more often is cut off
RECONNECT_MS = (100, 2_000)  # first and longest pause between attempts to connect
CONNECT_TIMEOUT_MS = 5_000  # of one attempt; gRPC calls it the minimum back-off
CONNECTION_AGE_S = 12 * 3600.0  # a connection outlives no certificate: then it must prove itself anew
STRANGER_AGE_S = 30.0  # the same on a listener that asks for no certificate

_Options = list[tuple[str, Any]]
_BOTH: _Options = [
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_MS),  # what counts where a ping is unanswered; a minute by default
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
]


def server(
    table: Table,
    cluster: str,
    *,
    clock: Clock,
    rng: Rng,
    refuse: Callable[[Identity], str] = lambda _identity: "",
    connection_age_s: float = CONNECTION_AGE_S,
) -> grpc.aio.Server:
    """A server without listeners; add servicers, then `listen_tls` or `listen_unix`, then start it.

    Raises Unsupported with protobuf's pure-Python parser, which recursion can exhaust.
    """
    if api_implementation.Type() == "python":
        raise Unsupported("protobuf runs without its C parser here: install a protobuf wheel with upb")
    options = [
        *_BOTH,
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_ANSWER_BYTES),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        ("grpc.max_connection_age_ms", int(connection_age_s * 1000)),
        ("grpc.max_connection_age_grace_ms", 30_000),
        ("grpc.so_reuseport", 0),  # two servers on one port would share its callers silently
    ]
    gate = Gate(table, cluster, clock=clock, rng=rng, refuse=refuse)
    return grpc.aio.server(interceptors=[gate], options=options, maximum_concurrent_rpcs=MAX_CALLS)


class ServerCredentials:
    """What a TLS listener presents; `replace` takes effect with the next handshake, and open connections stay."""

    def __init__(self, credentials: Credentials, *, ask_client: bool = True) -> None:
        self._current = credentials
        self._ask_client = ask_client

    @property
    def current(self) -> Credentials:
        """The newest credentials."""
        return self._current

    def replace(self, credentials: Credentials) -> None:
        """Presents these from now on, and trusts their CAs."""
        self._current = credentials

    def for_grpc(self) -> grpc.ServerCredentials:
        """The same for one listener, as gRPC wants it: asked at each handshake, it answers None to keep what it has."""
        presented = self._current

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal presented
            if presented is self._current:
                return None
            presented = self._current
            return self._configuration(presented)

        return grpc.dynamic_ssl_server_credentials(
            self._configuration(presented),
            fetch,  # type: ignore[arg-type]  # the stubs do not know that None is an answer
            self._ask_client,
        )

    def _configuration(self, credentials: Credentials) -> grpc.ServerCertificateConfiguration:
        roots = credentials.ca_pem if self._ask_client else None
        return grpc.ssl_server_certificate_configuration([(credentials.key_pem, credentials.chain_pem)], roots)


def listen_tls(target: grpc.aio.Server, host: str, port: int, credentials: ServerCredentials) -> int:
    """Adds a TLS listener (port 0 picks one) and returns its port; raises AlreadyExists when the address is taken."""
    try:
        return target.add_secure_port(_join(host, port), credentials.for_grpc())
    except RuntimeError as error:
        raise AlreadyExists(
            f"cannot listen on {host}:{port}: the address is not of this machine, or another process has it"
        ) from error


def listen_unix(target: grpc.aio.Server, path: Path) -> None:
    """Adds a listener on a Unix socket that only this user can open; whoever can is the admin. A stale socket is replaced."""
    if len(os.fsencode(path)) > 107:
        raise InvalidInput(
            f"socket path {path} is longer than the 107 bytes the kernel allows: choose a shorter directory"
        )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)
    before = os.umask(0o177)  # from its first moment on, not only after a chmod
    try:
        target.add_insecure_port(f"unix:{path}")
    except RuntimeError as error:
        raise InvalidInput(f"cannot listen on socket {path}: {error}") from error
    finally:
        os.umask(before)


def channel(
    host: str,
    port: int,
    credentials: Credentials,
    server_name: str = CONTROLLER_HOST,
    *,
    answer_bytes: int = MAX_MESSAGE_BYTES,
) -> grpc.aio.Channel:
    """A channel with mTLS. The server must have a certificate for `server_name`, whatever its address is."""
    return _secure(
        host,
        port,
        server_name,
        grpc.ssl_channel_credentials(credentials.ca_pem, credentials.key_pem, credentials.certificate_pem),
        answer_bytes,
    )


def stranger_channel(host: str, port: int, ca_pem: bytes, server_name: str = CONTROLLER_HOST) -> grpc.aio.Channel:
    """A channel that knows the server and presents no certificate: for joining only."""
    return _secure(host, port, server_name, grpc.ssl_channel_credentials(ca_pem))


def unix_channel(path: Path) -> grpc.aio.Channel:
    """A channel to the controller's Unix socket, for its users."""
    return grpc.aio.insecure_channel(f"unix:{path}", options=_client_options("localhost", MAX_ANSWER_BYTES))


def split_address(address: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` as a pair; raises InvalidInput."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and 0 < int(port) < 65536:
        return host.strip("[]"), int(port)
    raise InvalidInput(f"{address!r} is not an address: write host:port")


def _secure(
    host: str,
    port: int,
    server_name: str,
    credentials: grpc.ChannelCredentials,
    answer_bytes: int = MAX_MESSAGE_BYTES,
) -> grpc.aio.Channel:
    address = _join(host, port)
    with contextlib.suppress(ValueError):
        address = f"ipv{ipaddress.ip_address(host).version}:{address}"  # no resolver for what needs none
    options = [("grpc.ssl_target_name_override", server_name), *_client_options(server_name, answer_bytes)]
    return grpc.aio.secure_channel(address, credentials, options=options)


def _client_options(authority: str, answer_bytes: int) -> _Options:
    return [
        *_BOTH,
        ("grpc.max_receive_message_length", answer_bytes),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS[0]),
        ("grpc.min_reconnect_backoff_ms", CONNECT_TIMEOUT_MS),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MS[1]),
        ("grpc.enable_http_proxy", 0),  # nodes are reached directly, whatever proxy the user has for the web
        ("grpc.use_local_subchannel_pool", 1),  # a new channel means a new connection, with the new certificate
        ("grpc.default_authority", authority),
    ]


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
