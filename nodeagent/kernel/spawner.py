"""Client of the C helper: makes and ends sandboxes, and opens connections for containers and commands.

In: slots and hostnames (`Sandboxes`), or the strings of a `run` or `exec` request (`pods/launch.py` writes them). Out: sandboxes,
or a connection on which the container's waiter answers. The helper keeps no state: sandboxes are read from RUN/sandboxes/SLOT.net
(the pin) and SLOT.json (who holds it), so a restart of either side loses nothing, and every verb here may be repeated.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from nodeagent.kernel.base import Failure, Sandbox
from nodeagent.kernel.procs import ProcessId, alive
from podwire.errors import InvalidInput, KernelError, Unavailable
from podwire.seams import Clock, SystemClock, failpoint

BATCH = 64  # sandboxes per request: the helper answers nobody else meanwhile, about 30 ms
MAX_REQUEST = 192 * 1024
MAX_REPLY = 64 * 1024
RETRY_S = 0.02
REMADE_WITHIN_S = 2.0


class _Record(msgspec.Struct, frozen=True):
    pid: int
    start_time: int
    netns_inode: int


class Spawner:
    """Implements `Sandboxes` (nodeagent/kernel/base.py). Calls block; while the helper restarts they wait, up to `timeout_s`."""

    def __init__(
        self,
        socket_path: Path,
        run_dir: Path,
        *,
        timeout_s: float = 10.0,
        clock: Clock | None = None,
        pause: Callable[[float], None] | None = None,
    ) -> None:
        self._socket_path = str(socket_path)
        self._sandboxes = run_dir.resolve() / "sandboxes"
        self._timeout_s = timeout_s
        self._clock = clock or SystemClock()
        self._pause = pause or SystemClock().pause

    # Sandboxes

    def create(self, wanted: Sequence[tuple[str, str]]) -> list[Sandbox | Failure]:
        """Makes sandboxes; a slot that exists already and lives is returned as it is."""
        made: list[Sandbox | Failure] = []
        for start in range(0, len(wanted), BATCH):
            batch = wanted[start : start + BATCH]
            failpoint("spawner.create")
            answers = self._ask("create", *(part for pair in batch for part in pair))
            failpoint("spawner.created")
            made.extend(
                self._made(pair, answer) for pair, answer in zip(batch, _padded(answers, len(batch)), strict=True)
            )
        return made

    def adopt(self, sandbox: Sandbox, hostname: str) -> None:
        """Sets the hostname of a warm sandbox."""
        failpoint("spawner.hostname")
        answer = self._ask("hostname", str(sandbox.pid), str(sandbox.start_time), hostname)[0]
        if answer[0] != "ok":
            raise _error(answer, sandbox.slot)

    def existing(self) -> list[Sandbox]:
        """Every sandbox there is; one whose pause or pin is dead has pid 0 and wants deleting."""
        try:
            names = {entry.name for entry in self._sandboxes.iterdir()}
        except FileNotFoundError:
            return []
        slots = {name.split(".")[0] for name in names if name.endswith((".net", ".json"))}
        return [self._observe(slot) for slot in sorted(slots)]

    def delete(self, sandboxes: Sequence[Sandbox]) -> list[Failure | None]:
        """Ends the pause processes and removes pins and records; what is absent counts as deleted."""
        results: list[Failure | None] = []
        for start in range(0, len(sandboxes), BATCH):
            batch = sandboxes[start : start + BATCH]
            failpoint("spawner.delete")
            answers = self._ask("delete", *(sandbox.slot for sandbox in batch))
            failpoint("spawner.deleted")
            results.extend(
                None if answer[0] == "ok" else Failure(_error(answer, sandbox.slot))
                for sandbox, answer in zip(batch, _padded(answers, len(batch)), strict=True)
            )
        return results

    def gone(self, sandbox: Sandbox) -> bool:
        """Whether nothing holds the network namespace any more: no process, pin or socket."""
        answer = self._ask("gone", sandbox.slot)[0]
        if answer[0] != "ok":
            raise _error(answer, sandbox.slot)
        return answer[1] == "1"

    # Containers and commands

    def open(self, words: Iterable[str], fds: Sequence[int] = ()) -> socket.socket:
        """Sends a `run` or `exec` request; the job answers on the returned connection, which does not block.

        Raises Unavailable while the helper is not there, InvalidInput when the request is too long to be one message.
        """
        connection = self._connect()
        try:
            socket.send_fds(connection, [_packed(words)], list(fds))
            connection.setblocking(False)
        except OSError as error:
            connection.close()
            raise Unavailable("the node's helper went away", hint="its supervisor restarts it") from error
        except BaseException:
            connection.close()
            raise
        return connection

    # Inside

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.settimeout(self._timeout_s)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MAX_REQUEST)
            connection.connect(self._socket_path)
        except OSError as error:
            connection.close()
            message = f"the node's helper does not answer at {self._socket_path}: {error.strerror or error}"
            raise Unavailable(message, hint="its supervisor restarts it") from error
        return connection

    def _ask(self, *words: str) -> list[list[str]]:
        """The lines of the answer, split into words. Asks again where the helper died before it answered."""
        deadline = self._clock.monotonic() + self._timeout_s
        while True:
            try:
                with self._connect() as connection:
                    connection.send(_packed(words))
                    reply = connection.recv(MAX_REPLY)
            except (Unavailable, OSError) as error:
                failure: Exception = error
            else:
                if reply:
                    return [line.split(" ") for line in reply.decode().splitlines()]
                failure = EOFError("connection closed")
            if self._clock.monotonic() >= deadline:
                raise Unavailable(
                    f"the node's helper did not answer within {self._timeout_s:g} s: {failure}"
                ) from failure
            self._pause(RETRY_S)

    def _made(self, pair: tuple[str, str], answer: list[str]) -> Sandbox | Failure:
        slot, hostname = pair
        if answer[0] == "ok":
            pid, start_time, inode = (int(word) for word in answer[1:4])
            return Sandbox(slot, pid, start_time, inode, self._pin(slot))
        error = _error(answer, slot)
        if error.errno != errno.EEXIST:
            return Failure(error)
        there = self._observe(slot)  # made by a request whose answer was lost, or left half made by a crash
        if there.pid:
            self.adopt(there, hostname)
            return there
        self.delete([there])
        deadline = self._clock.monotonic() + REMADE_WITHIN_S
        while True:
            answer = self._ask("create", slot, hostname)[0]
            if answer[0] == "ok":
                return self._made(pair, answer)
            error = _error(answer, slot)
            if error.errno != errno.EBUSY or self._clock.monotonic() >= deadline:
                return Failure(error)
            self._pause(RETRY_S)  # the kernel takes a moment to let go of the namespace of before

    def _pin(self, slot: str) -> str:
        return str(self._sandboxes / f"{slot}.net")

    def _record(self, slot: str) -> _Record | None:
        try:
            return msgspec.json.decode((self._sandboxes / f"{slot}.json").read_bytes(), type=_Record)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def _observe(self, slot: str) -> Sandbox:
        broken = Sandbox(slot, 0, 0, 0, self._pin(slot))
        record = self._record(slot)
        try:
            inode = Path(broken.pin).stat().st_ino
        except FileNotFoundError:
            return broken
        if record is None or record.netns_inode != inode or not alive(ProcessId(record.pid, record.start_time)):
            return broken
        return replace(broken, pid=record.pid, start_time=record.start_time, netns_inode=inode)


def _packed(words: Iterable[str]) -> bytes:
    parts = list(words)
    if any("\0" in part for part in parts):
        raise InvalidInput("a command, its environment and its paths cannot hold a NUL character")
    request = b"".join(part.encode("utf-8", "surrogateescape") + b"\0" for part in parts)
    if len(request) > MAX_REQUEST:
        raise InvalidInput(
            f"command and environment together have {len(request)} bytes; at most {MAX_REQUEST} are possible",
            hint="put long values into a file",
        )
    return request


def _padded(answers: list[list[str]], count: int) -> list[list[str]]:
    missing = ["error", str(errno.EPROTO), "no", "answer"]
    return (answers + [missing] * count)[:count]


def _error(answer: list[str], slot: str) -> KernelError:
    number = int(answer[1]) if len(answer) > 1 and answer[1].isdigit() else errno.EPROTO
    return KernelError(number, " ".join(answer[2:]) or "ask the helper", f"sandbox {slot}")
