"""Streams of `exec`: standard input up, output down, the terminal raw and as large as the window.

In: a client, what to start, and our own standard streams. Out: the command's exit code. Imported only when a command is run.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty as terminal
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

from podwire.api.v1.node_agent_pb2 import ExecRequest, ExecStart, TerminalSize
from podwire.errors import PodwireError

if TYPE_CHECKING:
    from podwire.client import ControlClient

CHUNK_BYTES = 32 * 1024


class NotStarted(PodwireError):
    """The command could not be started; `exit_code` is what a shell says then: 127 for what is not there, 126 for what may not run."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


async def run(client: ControlClient, start: ExecStart, *, interactive: bool, tty: bool) -> int:
    """Starts a command, copies its output to ours, and returns its exit code. Raises NotStarted."""
    typed = _Input(interactive=interactive, tty=tty).messages() if interactive or tty else None
    async with aclosing(client.exec(start, typed)) as answers:
        async for answer in answers:
            match answer.WhichOneof("message"):
                case "stdout":
                    _write(sys.stdout.fileno(), answer.stdout)
                case "stderr":
                    _write(sys.stderr.fileno(), answer.stderr)
                case "exit":
                    if answer.exit.error:
                        raise NotStarted(f"pod {start.pod}: {answer.exit.error}", answer.exit.code)
                    return answer.exit.code
    raise PodwireError(f"exec in pod {start.pod} ended without an exit code")


class _Input:
    """What goes up: standard input, its end, and the window's sizes."""

    def __init__(self, *, interactive: bool, tty: bool) -> None:

        self._interactive = interactive
        self._tty = tty
        self._queue: asyncio.Queue[ExecRequest] = asyncio.Queue(maxsize=16)

    async def messages(self) -> AsyncIterator[ExecRequest]:
        """Messages for the command, until its input ends."""
        loop = asyncio.get_running_loop()
        if self._tty:
            loop.add_signal_handler(signal.SIGWINCH, self._resized)
        reading = asyncio.ensure_future(self._read()) if self._interactive else None
        try:
            while True:
                yield await self._queue.get()
        finally:
            if reading:
                reading.cancel()
            if self._tty:
                loop.remove_signal_handler(signal.SIGWINCH)

    def _resized(self) -> None:
        if not self._queue.full():
            self._queue.put_nowait(ExecRequest(resize=terminal_size()))

    async def _read(self) -> None:
        async for piece in _pieces(sys.stdin.fileno()):
            await self._queue.put(ExecRequest(stdin=piece))
        await self._queue.put(ExecRequest(stdin_closed=True))


async def _pieces(fd: int) -> AsyncIterator[bytes]:
    """What can be read, as it comes; a thread reads where the loop cannot watch (files), so nothing blocks the loop."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(fd, readable.set)
    except PermissionError:  # a regular file is always readable: epoll will not have it
        while piece := await asyncio.to_thread(os.read, fd, CHUNK_BYTES):
            yield piece
        return
    try:
        while True:
            await readable.wait()
            readable.clear()
            piece = os.read(fd, CHUNK_BYTES)
            if not piece:
                return
            yield piece
    finally:
        loop.remove_reader(fd)


@contextmanager
def raw_terminal(*, enabled: bool) -> Iterator[None]:
    """Every key goes to the command as it is typed, interrupts included; the terminal is put back afterwards."""
    if not enabled:
        yield
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        terminal.setraw(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def terminal_size() -> TerminalSize:
    """The window's size."""
    size = os.get_terminal_size(sys.stdin.fileno())
    return TerminalSize(rows=size.lines, columns=size.columns)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
