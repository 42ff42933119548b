"""The connection to one job of the helper, as an event loop sees it: messages of text, some with a descriptor.

In: a connected socket from `Spawner.open`, and pidfds. Out: awaitable messages and ends of processes. Used by `process.py` and
`exec.py`; nothing here knows what a container is.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nodeagent.kernel.spawner import Spawner
from podwire.errors import KernelError, Unavailable
from podwire.seams import Clock

RETRY_S = 0.05


@dataclass(frozen=True, slots=True)
class Message:
    """What a job said, in words; `fd` came along, or is None. No words: the connection is closed."""

    words: tuple[str, ...]
    fd: int | None = None

    def error(self, operation: str, obj: str) -> KernelError:
        """The KernelError that an `error ERRNO WHY` message stands for."""
        number = int(self.words[1]) if len(self.words) > 1 and self.words[1].isdigit() else 0
        return KernelError(number, operation, obj, f"{' '.join(self.words[2:])}: {os.strerror(number)}")


async def readable(fd: int) -> None:
    """Waits until the descriptor can be read: for a pidfd, until the process has ended."""
    await _once(asyncio.get_running_loop().add_reader, asyncio.get_running_loop().remove_reader, fd)


async def writable(fd: int) -> None:
    """Waits until the descriptor can be written."""
    await _once(asyncio.get_running_loop().add_writer, asyncio.get_running_loop().remove_writer, fd)


async def _once(add: Callable[..., None], remove: Callable[[int], bool], fd: int) -> None:
    event = asyncio.Event()
    add(fd, event.set)
    try:
        await event.wait()
    finally:
        remove(fd)


def receive_now(connection: socket.socket) -> Message:
    """One message; raises BlockingIOError when there is none yet."""
    try:
        data, fds, _, _ = socket.recv_fds(connection, 2048, 1)
    except ConnectionResetError:
        return Message(())
    return Message(tuple(data.decode(errors="replace").split()), fds[0] if fds else None)


async def receive(connection: socket.socket) -> Message:
    """The next message."""
    while True:
        try:
            return receive_now(connection)
        except BlockingIOError:
            await readable(connection.fileno())


async def open_job(
    spawner: Spawner, words: Iterable[str], fds: tuple[int, ...], *, clock: Clock, within_s: float
) -> tuple[socket.socket, Message]:
    """Sends a request and returns the connection with the job's first message; asks again while the helper restarts.

    A connection that closes without a message means that no job exists: the helper died before it forked one. Raises Unavailable
    when that goes on for `within_s`.
    """
    request = list(words)
    deadline = clock.monotonic() + within_s
    while True:
        failure: Unavailable | None = None
        try:
            connection = spawner.open(request, fds)
        except Unavailable as error:
            failure = error
        else:
            try:
                async with asyncio.timeout(max(deadline - clock.monotonic(), 0.1)):
                    message = await receive(connection)
            except BaseException as error:
                connection.close()
                if isinstance(error, TimeoutError):
                    raise Unavailable(f"the node's helper did not answer within {within_s:g} s") from error
                raise
            if message.words:
                return connection, message
            connection.close()
        if clock.monotonic() >= deadline:
            raise failure or Unavailable("the node's helper keeps going away", hint="see the node's log")
        await clock.sleep(RETRY_S)
