"""Real commands on behalf of a hosted program: netexec's `/shell`.

In: a command line. Out: its combined output and exit status. In a pod it runs through `enter.py`, a small process that goes into the
pod's namespaces and becomes the command: the host itself never forks Python.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from nodeagent.pods.base import ContainerRun

_ENTER = Path(__file__).with_name("enter.py")


def shell_in_pod(run: ContainerRun) -> Callable[[str], Awaitable[tuple[bytes, int]]]:
    """The shell of one container."""
    sandbox = run.sandbox
    place = (str(sandbox.pid), sandbox.pin, str(run.files))
    env = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/root", "HOSTNAME": run.hostname, **dict(run.env)}

    async def shell(command: str) -> tuple[bytes, int]:
        return await run_command((sys.executable, "-I", "-S", str(_ENTER), *place, "--", "/bin/sh", "-c", command), env)

    return shell


async def run_command(argv: tuple[str, ...], env: dict[str, str] | None) -> tuple[bytes, int]:
    """Combined output and exit status of a command; it is killed when the caller is cancelled."""
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
