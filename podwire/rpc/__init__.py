"""Remote calls: servers behind one gate, channels with deadlines, and errors that arrive as what they were.

In: credentials, addresses, authorisation tables. Out: `grpc.aio` servers and channels. `channels.py` builds both, `gate.py` stands
before every handler, `status.py` turns errors into statuses and back. Services are written elsewhere (`controller.serve`,
`nodeagent.serve`) and raise PodwireErrors; callers use `call`, `stream`, `duplex` or `translated` and get them back.
"""

from podwire.rpc.channels import (
    MAX_ANSWER_BYTES,
    MAX_MESSAGE_BYTES,
    ServerCredentials,
    channel,
    listen_tls,
    listen_unix,
    server,
    split_address,
    stranger_channel,
    unix_channel,
)
from podwire.rpc.duplex import duplex
from podwire.rpc.gate import Gate, Table, peer_host, peer_identity
from podwire.rpc.status import call, error_of, raise_for, stream, translated

__all__ = [
    "MAX_ANSWER_BYTES",
    "MAX_MESSAGE_BYTES",
    "Gate",
    "ServerCredentials",
    "Table",
    "call",
    "channel",
    "duplex",
    "error_of",
    "listen_tls",
    "listen_unix",
    "peer_host",
    "peer_identity",
    "raise_for",
    "server",
    "split_address",
    "stranger_channel",
    "stream",
    "translated",
    "unix_channel",
]
