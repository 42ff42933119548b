"""`/agnhost COMMAND …`: the built-in programs as a command, in the namespaces of the shell that runs it.

In: a command line. Out: the program's output on the standard streams, and its exit code. What differs from the hosted form is only
where sockets are made and where lines go.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

from nodeagent.workload.catalog import program
from nodeagent.workload.commands import run_command
from nodeagent.workload.life import Life, Surroundings
from nodeagent.workload.names import Names
from nodeagent.workload.sockets import LocalSockets
from podwire.seams import SystemClock


def _write(stream: str, text: str) -> None:
    print(text, file=sys.stdout if stream == "stdout" else sys.stderr, flush=True)


async def _shell(command: str) -> tuple[bytes, int]:
    return await run_command(("/bin/sh", "-c", command), None)


async def _run(name: str, args: tuple[str, ...]) -> int:
    sockets = LocalSockets()
    around = Surroundings(
        hostname=socket.gethostname(),
        env=dict(os.environ),
        sockets=sockets,
        names=Names(sockets, Path("/etc")),
        clock=SystemClock(),
        write=_write,
        directory=Path(tempfile.gettempdir()),
        shell=_shell,
    )
    life = Life(around)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, life.terminated.set)
    return (await life.live(program(name), args)).code


def main() -> None:
    """Runs the program named first; none is `pause`, as in the image."""
    name, *args = sys.argv[1:] or ["pause"]
    sys.exit(asyncio.run(_run(name, tuple(args))))


if __name__ == "__main__":
    main()
