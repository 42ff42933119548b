"""`podwire exec`: a command in a pod's namespaces.

In: a pod and a command. Out: its output as it comes, and its exit code as ours. With `-t` the terminal is raw while it runs and its size
follows the window.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from podwire.cli import options
from podwire.cli.app import App, pass_app, usage
from podwire.cli.selection import parse_target
from podwire.errors import PodwireError

if TYPE_CHECKING:
    from podwire.api.v1.node_agent_pb2 import ExecRequest, ExecStart, TerminalSize
    from podwire.client import ControlClient

CHUNK_BYTES = 32 * 1024


@click.command("exec")
@click.argument("pod", shell_complete=options.complete_pods)
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD…")
@options.namespace_option
@click.option("-c", "--container", default="", help="Which container; the first by default.")
@click.option("-i", "--stdin", "interactive", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@pass_app
def command(
    app: App, *, pod: str, argv: tuple[str, ...], namespace: str, container: str, interactive: bool, tty: bool
) -> int:
    """Run a command in a pod: exec web -- curl -s localhost:8080/hostname."""
    with usage():
        target = parse_target([pod])
    if tty and not sys.stdin.isatty():
        app.renderer.note("Standard input is not a terminal: the command gets none.")
        tty = False

    async def work(client: ControlClient) -> int:
        from podwire.api.v1.node_agent_pb2 import ExecStart

        start = ExecStart(
            namespace=namespace, pod=target.name, container=container, argv=argv, stdin=interactive, tty=tty
        )
        if tty:
            start.size.CopyFrom(_terminal_size())
        with _raw_terminal(enabled=tty and interactive):
            return await _run(client, start, interactive=interactive, tty=tty)

    return app.run(work)


async def _run(client: ControlClient, start: ExecStart, *, interactive: bool, tty: bool) -> int:
    answers = client.exec(start, _Input(interactive=interactive, tty=tty).messages() if interactive or tty else None)
    async for answer in answers:
        match answer.WhichOneof("message"):
            case "stdout":
                _write(sys.stdout.fileno(), answer.stdout)
            case "stderr":
                _write(sys.stderr.fileno(), answer.stderr)
            case "exit":
                if answer.exit.error:
                    raise PodwireError(f"{start.argv[0]!r} did not start in pod {start.pod}: {answer.exit.error}")
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
        from podwire.api.v1.node_agent_pb2 import ExecRequest

        if not self._queue.full():
            self._queue.put_nowait(ExecRequest(resize=_terminal_size()))

    async def _read(self) -> None:
        from podwire.api.v1.node_agent_pb2 import ExecRequest

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
def _raw_terminal(*, enabled: bool) -> Iterator[None]:
    if not enabled:
        yield
        return
    import termios
    import tty as terminal

    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        terminal.setraw(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _terminal_size() -> TerminalSize:
    from podwire.api.v1.node_agent_pb2 import TerminalSize

    size = os.get_terminal_size(sys.stdin.fileno())
    return TerminalSize(rows=size.lines, columns=size.columns)


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
