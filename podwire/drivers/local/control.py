"""Commands to a supervisor: one JSON line each way over a Unix socket that only its owner can open.

In: a verb and a node's name. Out: a result, or the error that the supervisor raised, raised again here. `Server` is the supervisor's
side, `call` the driver's.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from podwire import errors
from podwire.drivers.local.loop import Loop

LINE_LIMIT = 1 << 20
SERVER_TIMEOUT_S = 2.0  # a client that connects and says nothing must not hold up the supervisor
CLIENT_TIMEOUT_S = 30.0


class Server:
    """Answers one command at a time, in the supervisor's loop."""

    def __init__(self, loop: Loop, path: Path, verbs: Mapping[str, Callable[[str], Any]]) -> None:
        self._verbs = verbs
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen(16)
        loop.on_readable(self._listener, self._accept)

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        with connection, suppress(OSError):
            connection.settimeout(SERVER_TIMEOUT_S)
            line = connection.makefile("rb").readline(LINE_LIMIT)
            connection.sendall(encode(self._result(line)))

    def _result(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            verb, node = self._verbs[request["verb"]], str(request["node"])
        except (ValueError, KeyError, TypeError):
            return failure(errors.InvalidInput(f"the supervisor does not understand {line[:80]!r}"))
        try:
            return {"result": verb(node)}
        except errors.PodwireError as error:
            return failure(error)
        except OSError as error:  # a full disk, most of all: the cluster goes on without what was asked
            return failure(errors.Unavailable(f"the supervisor could not {request['verb']} {node}: {error.strerror}"))


def call(path: Path, verb: str, node: str = "") -> Any:
    """Sends a command and waits for its result. Raises the supervisor's error, or Unavailable where none listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(CLIENT_TIMEOUT_S)
        try:
            connection.connect(str(path))
            connection.sendall(encode({"verb": verb, "node": node}))
            line = connection.makefile("rb").readline(LINE_LIMIT)
        except OSError as error:
            raise errors.Unreachable(
                f"the cluster's supervisor does not answer at {path} ({error.strerror})",
                hint="start it with: podwire up",
            ) from error
    return result(line)


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as its line."""
    return json.dumps(message).encode() + b"\n"


def failure(error: errors.PodwireError) -> dict[str, Any]:
    """An error as a message."""
    return {"error": type(error).__name__, "message": error.message, "hint": error.hint}


def result(line: bytes) -> Any:
    """What a message says; raises the error it carries, or Unavailable where it is cut off."""
    if not line.endswith(b"\n"):
        raise errors.Unavailable("the cluster's supervisor ended before it answered")
    message = json.loads(line)
    if "error" in message:
        kind = _ERRORS.get(message["error"], errors.PodwireError)
        raise kind(message["message"], hint=message["hint"])
    return message["result"]


_ERRORS: dict[str, Callable[..., errors.PodwireError]] = {
    kind.__name__: kind
    for kind in (errors.InvalidInput, errors.NotFound, errors.AlreadyExists, errors.Unavailable, errors.Unsupported)
}
