"""Real commands on behalf of a hosted program: netexec's `/shell`.

In: a command line, from whoever can reach the pod's port. Out: its combined output and exit status. In a pod it runs as `podwire exec`
would run it, through the node's helper: in the pod's namespaces, with a root and processes of its own and a container's rights; never
with those of the workload host. The output is bounded, since the host's memory is every hosted container's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from nodeagent.kernel.spawner import Spawner
from nodeagent.pods.base import ContainerRun
from nodeagent.pods.exec import ExecRunner
from nodeagent.pods.launch import NodePrograms
from podwire.errors import PodwireError
from podwire.seams import Clock

OUTPUT_LIMIT_BYTES = 8 * 1024 * 1024
CANNOT_RUN = 126
KILLED = 137
UPLOADS = "uploads"  # below a run's directory: netexec stores files there, and `/shell` may run them
# One pipe for both streams, so that their order is kept.
_TOGETHER = ("/bin/sh", "-c", 'exec /bin/sh -c "$0" 2>&1')

Shell = Callable[[str], Awaitable[tuple[bytes, int]]]


def shells(helper: Path, run_dir: Path, clock: Clock) -> Callable[[ContainerRun], Shell]:
    """What makes a container's shell, given where the node's helper listens."""
    spawner, programs = Spawner(helper, run_dir), NodePrograms.here()

    def shell_in_pod(run: ContainerRun) -> Shell:
        uploads = str((run.directory / UPLOADS).absolute())
        commands = ExecRunner(spawner, None, clock=clock, programs=replace(programs, binds=(*programs.binds, uploads)))

        async def shell(command: str) -> tuple[bytes, int]:
            try:
                session = await commands.start(run, (*_TOGETHER, command))
            except PodwireError as error:
                return str(error).encode(), CANNOT_RUN
            output = bytearray()
            async with session, aclosing(session.output()) as pieces:
                async for piece in pieces:
                    output += piece.data
                    if len(output) > OUTPUT_LIMIT_BYTES:
                        return bytes(output[:OUTPUT_LIMIT_BYTES]), KILLED
                return bytes(output), await session.wait()

        return shell

    return shell_in_pod


async def run_command(argv: tuple[str, ...], env: dict[str, str] | None) -> tuple[bytes, int]:
    """Combined output and exit status of a command of this process's own; it is killed when the caller is cancelled."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    return output, process.returncode or 0
