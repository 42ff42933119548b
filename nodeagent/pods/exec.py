"""Commands beside a container: one session per command.

In: a container, an argument list, and what the caller types. Out: chunks of output, then the exit code. The exec service copies
between a session and its stream. Nothing is buffered here: output waits in the pipe until `output` is asked for more, so a slow
reader slows the command and costs the agent nothing. Closing a session that has not ended kills the command.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import struct
import termios
from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from nodeagent.kernel.spawner import Spawner
from nodeagent.pods.base import ContainerRun
from nodeagent.pods.channel import Message, open_job, receive, receive_now, writable
from nodeagent.pods.launch import NodePrograms, exec_request
from nodeagent.pods.process import ProcessRunner
from podwire.errors import InvalidInput, NotFound
from podwire.seams import Clock, failpoint

CHUNK = 32 * 1024
START_WITHIN_S = 30.0
DEFAULT_SIZE = (24, 80)
END_OF_INPUT = b"\x04"  # what a terminal takes for it


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of what the command wrote; with a terminal all of it is stdout."""

    stream: Literal["stdout", "stderr"]
    data: bytes


class ExecSession:
    """A running command. Use as an async context manager; `output` and `write` may run at the same time, each once."""

    def __init__(
        self, connection: socket.socket, stdin: int | None, outputs: dict[int, Literal["stdout", "stderr"]]
    ) -> None:
        self._connection = connection
        self._stdin = stdin
        self._outputs = outputs
        self._terminal = stdin if stdin in outputs else None
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(connection.fileno(), self._on_message)

    async def output(self) -> AsyncGenerator[Output, None]:
        """What the command writes, until it has ended and nothing is left. A background child may keep the pipe: it is not waited for."""
        while self._outputs:
            ended = self._exit.done()
            await self._something()
            chunks = [(fd, stream, _read(fd)) for fd, stream in self._outputs.items()]
            for fd, stream, data in chunks:
                if data:
                    yield Output(stream, data)
                elif data is not None:
                    self._drop(fd)
            if ended and not any(data for _, _, data in chunks):
                return

    async def write(self, data: bytes) -> None:
        """Types; returns when the pipe has taken it. What a command does not read is dropped once it has closed its input."""
        view = memoryview(data)
        while view and self._stdin is not None and not self._exit.done():
            try:
                view = view[os.write(self._stdin, view) :]
            except BlockingIOError:
                await self._until_exit(writable(self._stdin))
            except OSError as error:
                if error.errno not in (errno.EPIPE, errno.EIO):
                    raise
                return

    async def close_stdin(self) -> None:
        """No more input."""
        if self._terminal is not None:
            await self.write(END_OF_INPUT)
        elif self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None

    def resize(self, rows: int, columns: int) -> None:
        """Tells the terminal its size; no effect without one."""
        if self._terminal is not None:
            fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows & 0xFFFF, columns & 0xFFFF, 0, 0))

    async def wait(self) -> int:
        """The exit code; 128 + signal when a signal ended the command."""
        return await asyncio.shield(self._exit)

    async def close(self) -> None:
        """Lets go; a command that still runs is killed."""
        asyncio.get_running_loop().remove_reader(self._connection.fileno())
        self._connection.close()
        for fd in {*self._outputs, *([self._stdin] if self._stdin is not None else [])}:
            os.close(fd)
        self._outputs.clear()
        self._stdin = self._terminal = None
        if not self._exit.done():
            self._exit.set_result(137)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _on_message(self) -> None:
        try:
            message = receive_now(self._connection)
        except BlockingIOError:
            return
        if message.words[:1] == ("exit",) or not message.words:
            asyncio.get_running_loop().remove_reader(self._connection.fileno())
            if not self._exit.done():  # a job that is gone without a word was killed, and its command with it
                self._exit.set_result(int(message.words[1]) if message.words else 137)

    async def _something(self) -> None:
        """Until there is output or the command has ended."""
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        waiting = list(self._outputs)
        for fd in waiting:
            loop.add_reader(fd, event.set)
        try:
            await self._until_exit(event.wait())
        finally:
            for fd in waiting:
                loop.remove_reader(fd)

    async def _until_exit(self, waiting: Coroutine[None, None, object]) -> None:
        task: asyncio.Future[object] = asyncio.create_task(waiting)
        ended: asyncio.Future[object] = self._exit  # type: ignore[assignment]
        try:
            await asyncio.wait((task, ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            task.cancel()

    def _drop(self, fd: int) -> None:
        del self._outputs[fd]
        if fd == self._terminal:
            self._stdin = self._terminal = None
        os.close(fd)


class ExecRunner:
    """Starts commands beside containers of this node; without `processes`, beside hosted ones only."""

    def __init__(
        self, spawner: Spawner, processes: ProcessRunner | None, *, clock: Clock, programs: NodePrograms | None = None
    ) -> None:
        self._spawner = spawner
        self._processes = processes
        self._clock = clock
        self._programs = programs or NodePrograms.here()

    async def start(
        self,
        run: ContainerRun,
        argv: Sequence[str],
        *,
        stdin: bool = False,
        tty: bool = False,
        size: tuple[int, int] = DEFAULT_SIZE,
    ) -> ExecSession:
        """Returns once the command runs. A real process is joined; a hosted container's command gets a root of its own in the pod.

        Raises NotFound when the container does not run, KernelError (ENOENT, EACCES …) when the command cannot.
        """
        if not argv:
            raise InvalidInput("no command was given", field="argv", hint="name one after --")
        record = self._processes.record(run.id) if self._processes and run.program == "process" else None
        if run.program == "process" and record is None:
            raise NotFound(f"container {run.id.container} does not run", hint="see its state with podwire describe pod")
        words = exec_request(
            run, argv, init=record.init_id if record else None, size=size if tty else None, programs=self._programs
        )
        failpoint("exec.start")
        return await (self._with_terminal(run, words) if tty else self._with_pipes(run, words, stdin=stdin))

    async def _with_pipes(self, run: ContainerRun, words: list[str], *, stdin: bool) -> ExecSession:
        pipes = [os.pipe() for _ in range(3)]
        (command_in, our_in), (our_out, command_out), (our_err, command_err) = pipes
        ours, theirs = [our_in, our_out, our_err], [command_in, command_out, command_err]
        try:
            connection, message = await self._open(words, tuple(theirs))
            _expect_started(run, connection, message)
        except BaseException:
            _close(ours)
            raise
        finally:
            _close(theirs)
        if not stdin:
            os.close(our_in)
        for fd in ours if stdin else ours[1:]:
            os.set_blocking(fd, False)
        return ExecSession(connection, our_in if stdin else None, {our_out: "stdout", our_err: "stderr"})

    async def _with_terminal(self, run: ContainerRun, words: list[str]) -> ExecSession:
        connection, message = await self._open(words, ())
        if message.words != ("tty",) or message.fd is None:
            connection.close()
            raise message.error("exec in", run.id.container)
        try:
            async with asyncio.timeout(START_WITHIN_S):
                _expect_started(run, connection, await receive(connection))
        except BaseException:
            connection.close()
            os.close(message.fd)
            raise
        os.set_blocking(message.fd, False)
        return ExecSession(connection, message.fd, {message.fd: "stdout"})

    async def _open(self, words: list[str], fds: tuple[int, ...]) -> tuple[socket.socket, Message]:
        return await open_job(self._spawner, words, fds, clock=self._clock, within_s=START_WITHIN_S)


def _expect_started(run: ContainerRun, connection: socket.socket, message: Message) -> None:
    if message.words[:1] != ("started",):
        connection.close()
        raise message.error("exec in", run.id.container)


def _read(fd: int) -> bytes | None:
    """Some output, b"" at its end, None when there is none now."""
    try:
        return os.read(fd, CHUNK)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno != errno.EIO:  # a terminal that nobody holds any more
            raise
        return b""


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
