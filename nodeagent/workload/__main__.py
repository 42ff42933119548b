"""`python -m nodeagent.workload --run-dir DIR --state-dir DIR`: the node's workload host, under its supervisor.

In: the node's directories. Out: a process that serves RUN/workload.sock until TERM. Wiring only; `host.py` does the work.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import signal
from pathlib import Path

from nodeagent.workload.commands import shells
from nodeagent.workload.host import Host
from nodeagent.workload.wire import SOCKET_NAME
from podwire.seams import PassingDisk, SystemClock, SystemDisk

HELPER_SOCKET = "helper.sock"


def raise_descriptor_limit() -> int:
    """Sockets are what pods cost here: take all the descriptors there are; returns how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


async def _serve(run_dir: Path) -> None:
    clock = SystemClock()
    shell_for = shells(run_dir / HELPER_SOCKET, run_dir, clock)
    host = Host(clock, SystemDisk(), PassingDisk(), shell_for=shell_for, descriptors=raise_descriptor_limit())
    serving = asyncio.ensure_future(host.serve(run_dir / SOCKET_NAME))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        return


def main() -> None:
    """Reads the command line and serves."""
    parser = argparse.ArgumentParser(prog="nodeagent.workload", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument(
        "--state-dir", type=Path, required=True, help="named by every daemon of a node; runs say theirs"
    )
    run_dir: Path = parser.parse_args().run_dir
    run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    asyncio.run(_serve(run_dir))


if __name__ == "__main__":
    main()
