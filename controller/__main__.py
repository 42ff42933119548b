"""`python -m controller`: reads its flags, opens the store, and runs a controller until told to stop.

In: flags. Out: exit code 0 after TERM or INT, 1 with one sentence on stderr when it cannot run. The file `ready` exists while it listens.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from controller.ca import ClusterCA
from controller.config import CLUSTER_FILE, JOIN_PORT, SOCKET, SYNC_PORT, Settings
from controller.controller import Controller
from controller.document import read_cluster
from controller.ipam import DEFAULT_COOLDOWN_S
from controller.nodeloss import DEFAULT_TIMEOUT_S
from controller.serve.listeners import Addresses, Listeners
from controller.store.sqlite import open_sqlite
from podwire import telemetry
from podwire.errors import PodwireError
from podwire.rpc import split_address
from podwire.seams import Clock, Disk, SystemClock, SystemDisk, SystemRng

log = telemetry.logger(__name__)

READY = "ready"
DOCUMENT_POLL_S = 1.0


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m controller", description="The controller of a podwire cluster.")
    parser.add_argument("--state-dir", required=True, type=Path, help="holds the store and the CA; mode 0700")
    parser.add_argument("--run-dir", type=Path, help="where the file `ready` stands while it listens (STATE)")
    parser.add_argument("--cluster-file", type=Path, help=f"the Cluster document as JSON (STATE/{CLUSTER_FILE})")
    parser.add_argument("--cluster", default="", help="refuse to start with another cluster's document")
    parser.add_argument("--socket", type=Path, help=f"Unix socket for users of this machine (STATE/{SOCKET})")
    parser.add_argument(
        "--listen", default=f"0.0.0.0:{SYNC_PORT}", metavar="HOST:PORT", help="users and nodes, mTLS; empty: none"
    )
    parser.add_argument(
        "--join-listen", default=f"0.0.0.0:{JOIN_PORT}", metavar="HOST:PORT", help="joining nodes, TLS; empty: none"
    )
    parser.add_argument(
        "--node-timeout", type=float, default=DEFAULT_TIMEOUT_S, metavar="SECONDS", help="until NotReady"
    )
    parser.add_argument(
        "--address-cooldown", type=float, default=DEFAULT_COOLDOWN_S, metavar="SECONDS", help="rest of a freed address"
    )
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    return parser.parse_args(argv)


async def follow_document(controller: Controller, path: Path, known: bytes | None, clock: Clock, disk: Disk) -> None:
    """Applies the Cluster document again when its file changes: a driver that adds a node, or turns the guard off, rewrites it."""
    while True:
        await clock.sleep(DOCUMENT_POLL_S)
        content = disk.read(path)
        if content is None or content == known:
            continue
        known = content
        try:
            spec = read_cluster(content, path, controller.settings.cluster.name)
            await controller.registry.apply([spec.document()])
        except PodwireError as error:
            log.warning("document_not_applied", file=str(path), reason=error.message)


async def run(flags: argparse.Namespace) -> None:
    """Runs until TERM or INT."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    clock, rng, disk = SystemClock(), SystemRng(), SystemDisk()
    state: Path = flags.state_dir
    document = flags.cluster_file or state / CLUSTER_FILE
    content = disk.read(document)
    spec = read_cluster(content, document, flags.cluster)
    ready = (flags.run_dir or state) / READY
    disk.remove(ready)
    ca = ClusterCA.open(spec.name, state / "ca", clock=clock, rng=rng, disk=disk)
    store = await open_sqlite(state / "store.db", rng)
    settings = Settings(cluster=spec, node_timeout_s=flags.node_timeout, address_cooldown_s=flags.address_cooldown)
    controller = Controller(store, clock, rng, settings)
    try:
        await controller.start()
        addresses = Addresses(
            socket=flags.socket or state / SOCKET,
            listen=split_address(flags.listen) if flags.listen else None,
            join_listen=split_address(flags.join_listen) if flags.join_listen else None,
        )
        listeners = Listeners(controller, ca, addresses, clock=clock, rng=rng)
        await listeners.start()
        disk.replace(ready, b"")
        log.info("listening", cluster=spec.name, listen=flags.listen, socket=str(addresses.socket))
        await _first_of(
            stopping.wait(),
            controller.finished(),
            listeners.keep_renewed(),
            follow_document(controller, document, content, clock, disk),
        )
        disk.remove(ready)
        await controller.stop()
        await listeners.stop()
    finally:
        await store.close()


async def _first_of(*parts: Coroutine[Any, Any, object]) -> None:
    """Waits until one part ends, ends the others, and raises what it raised."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()


def main() -> int:
    """The program."""
    flags = arguments()
    telemetry.setup("controller", level=flags.log_level)
    gc.set_threshold(50_000, 20, 100)  # documents are trees: there is little to find in them, and much to look through
    try:
        asyncio.run(run(flags))
    except PodwireError as error:
        hint = f" ({error.hint})" if error.hint else ""
        sys.stderr.write(f"controller: {error.message}{hint}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
