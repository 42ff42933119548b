"""What agent and workload host say to each other: one JSON document per line on a Unix socket, and the form of `exit.json`.

In: requests from the agent, each with an id. Out: one reply per request, and unasked a reply with id 0 for every run that ends.
Both sides decode into the frozen types of `nodeagent.pods.base`, so that a line that does not fit is an error and not a surprise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from nodeagent.pods.base import ContainerRun, Exit, RunId

SOCKET_NAME = "workload.sock"
EXIT_FILE = "exit.json"
LOG_FILE = "log"
LINE_LIMIT_BYTES = 8 * 1024 * 1024
START, STOP, LIST = "start", "stop", "list"


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """`start` carries `run`, `stop` carries `id_of` and `grace_s`, `list` nothing."""

    id: int
    method: str
    run: ContainerRun | None = None
    id_of: RunId | None = None
    grace_s: float = 0.0


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer to request `id`; with id 0, news: `ended` has ended as `exit` says. An empty `error` means done."""

    id: int = 0
    error: str = ""
    runs: tuple[RunId, ...] = ()
    ended: RunId | None = None
    exit: Exit | None = None


def _to_json(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError


def _from_json(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError


_encoder = msgspec.json.Encoder(enc_hook=_to_json)
_requests = msgspec.json.Decoder(Request, dec_hook=_from_json)
_replies = msgspec.json.Decoder(Reply)
_exits = msgspec.json.Decoder(Exit)


def line(message: Request | Reply) -> bytes:
    """A message as it goes over the socket."""
    return bytes(_encoder.encode(message)) + b"\n"


def request(data: bytes) -> Request:
    """Raises msgspec.DecodeError."""
    return _requests.decode(data)


def reply(data: bytes) -> Reply:
    """Raises msgspec.DecodeError."""
    return _replies.decode(data)


def encode_exit(end: Exit) -> bytes:
    """The content of `exit.json`."""
    return bytes(_encoder.encode(end))


def decode_exit(data: bytes) -> Exit | None:
    """The ending in an `exit.json`; None when it is not one."""
    try:
        return _exits.decode(data)
    except msgspec.DecodeError:
        return None
