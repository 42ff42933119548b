"""The local driver: starts and commands a cluster's supervisor, and hands each new node its token.

In: a `ClusterSpec`. Out: a supervisor (see `supervisor.py`) whose controller answers on a Unix socket, and nodes that have what they
need to join. All state is in the cluster's directory; `down` ends the supervisor, with which everything ends, and removes that.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import select
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from podwire.drivers.base import DriverNode, Endpoint, Fact, Progress, UpOptions, state_directory
from podwire.drivers.local import control, layout, processes
from podwire.errors import PodwireError, Unavailable, Unsupported
from podwire.model.addresses import IPAddress, parse_cidr
from podwire.model.cluster import ClusterSpec, NodeSpec
from podwire.seams import SystemClock, SystemDisk

if TYPE_CHECKING:
    from podwire.client import ControlClient

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
POLL_S = 0.01
HOPELESS = 3  # ends of the controller while it is waited for


class LocalDriver:
    """See the module's docstring; fulfils `podwire.drivers.base.Driver`."""

    name = "local"

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._paths = layout.Layout(state_directory(cluster))
        self._disk = SystemDisk()
        self._clock = SystemClock()

    async def up(self, spec: ClusterSpec, options: UpOptions, progress: Progress) -> Endpoint:
        self._paths.check()
        if not self._alive():
            count = f"{len(spec.nodes)} node{'s' if len(spec.nodes) != 1 else ''}"
            with progress(f"Starting a controller and {count} in namespaces of this machine"):
                self._start(spec)
        else:
            await self._resize(spec, progress)
        with progress("Introducing the nodes to the controller"):
            await self._introduce([node for node in spec.nodes if not self._joined(node.name)])
        return await self.endpoint()

    async def _resize(self, spec: ClusterSpec, progress: Progress) -> None:
        self._remember_spec(spec)
        wanted = {node.name for node in spec.nodes}
        nodes = await self.nodes()
        existing = {node.name for node in nodes}
        for name in sorted(existing - wanted):
            with progress(f"Removing node {name}"):
                await self.delete_node(name)
        for name in sorted(wanted - existing):
            with progress(f"Starting node {name}"):
                control.call(self._paths.control_socket, "add", name)
        for name in sorted(node.name for node in nodes if node.state == "paused" and node.name in wanted):
            with progress(f"Resuming node {name}"):
                await self.resume_node(name)

    async def down(self, progress: Progress) -> None:
        if not self._paths.root.exists():
            return
        with progress("Ending every process of the cluster"):
            self._stop()
        shutil.rmtree(self._paths.root)

    async def endpoint(self) -> Endpoint:
        if not self._alive():
            raise Unavailable(f"cluster {self._cluster!r} is not running", hint="start it with: podwire up")
        return Endpoint(socket=self._paths.controller_socket)

    async def nodes(self) -> Sequence[DriverNode]:
        listed = control.call(self._paths.control_socket, "nodes")
        return [DriverNode(node["name"], node["state"], node["address"]) for node in listed]

    async def add_node(self, node: NodeSpec) -> None:
        control.call(self._paths.control_socket, "add", node.name)
        self._remember_nodes(add=node)
        await self._introduce([node])

    async def delete_node(self, name: str) -> None:
        control.call(self._paths.control_socket, "delete", name)
        self._remember_nodes(remove=name)
        shutil.rmtree(self._paths.node(name), ignore_errors=True)

    async def pause_node(self, name: str) -> None:
        control.call(self._paths.control_socket, "pause", name)

    async def resume_node(self, name: str) -> None:
        control.call(self._paths.control_socket, "resume", name)

    async def restart_node(self, name: str) -> None:
        control.call(self._paths.control_socket, "restart", name)

    async def facts(self) -> Sequence[Fact]:
        from podwire.drivers.local.facts import collect  # noqa: PLC0415 - probes the kernel: only when asked

        return collect()

    # --- the supervisor -------------------------------------------------------------------------------------------------------

    def _supervisor(self) -> int:
        """PID of the living supervisor, or 0."""
        content = self._disk.read(self._paths.supervisor_file)
        if content is None:
            return 0
        identity = json.loads(content)
        return identity["pid"] if processes.start_time(identity["pid"]) == identity["start_time"] else 0

    def _alive(self) -> bool:
        return self._supervisor() != 0

    def _start(self, spec: ClusterSpec) -> None:
        self._paths.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._remember_spec(spec)
        self._choose_members(spec)
        reading, writing = os.pipe()
        os.set_inheritable(writing, True)
        command = [sys.executable, "-P", "-m", "podwire.drivers.local.supervisor"]
        command += ["--cluster", self._cluster, "--directory", str(self._paths.root)]
        command += ["--helper", str(helper_program()), "--ready-fd", str(writing)]
        log = str(self._paths.logs / "supervisor.log")
        os.posix_spawn(
            command[0],
            command,
            dict(os.environ),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        os.close(writing)
        import podwire.client  # noqa: F401, PLC0415 - takes as long as the supervisor's start, and may as well run beside it

        with os.fdopen(reading, "rb") as ready:
            if not select.select([ready], [], [], START_TIMEOUT_S)[0]:
                raise Unavailable("the cluster's supervisor does not start", hint=f"see {log}")
            line = ready.readline()
        try:
            control.result(line)
        except Unavailable as error:
            raise Unavailable("the cluster's supervisor ended while it started", hint=f"see {log}") from error

    def _remember_spec(self, spec: ClusterSpec) -> None:
        content = json.dumps(spec.document(), indent=2).encode()
        if self._disk.read(self._paths.cluster_file) != content:
            self._disk.replace(self._paths.cluster_file, content)

    def _remember_nodes(self, *, add: NodeSpec | None = None, remove: str = "") -> None:
        """The document, which the controller follows, has the nodes there are."""
        document = json.loads(self._disk.read(self._paths.cluster_file) or b"{}")
        left = [node for node in document["spec"]["nodes"] if node["name"] != remove]
        document["spec"]["nodes"] = left + ([msgspec.to_builtins(add)] if add else [])
        self._disk.replace(self._paths.cluster_file, json.dumps(document, indent=2).encode())

    def _choose_members(self, spec: ClusterSpec) -> None:
        """Gives each node its number; those of an earlier supervisor's life keep theirs."""
        earlier = json.loads(self._disk.read(self._paths.members_file) or b'{"nodes": {}}')
        names = {node.name for node in spec.nodes}
        numbers = {name: number for name, number in earlier["nodes"].items() if name in names}
        for node in spec.nodes:
            if node.name not in numbers:
                numbers[node.name] = layout.free_number(set(numbers.values()))
        underlay = parse_cidr(earlier["underlay"], "underlay") if "underlay" in earlier else None
        underlay = layout.choose_underlay(spec.underlay_cidr or underlay, (*spec.pod_cidrs, *spec.service_cidrs))
        layout.node_address(underlay, max(numbers.values()))  # raises where it has no room
        self._disk.replace(self._paths.members_file, json.dumps({"underlay": str(underlay), "nodes": numbers}).encode())

    def _stop(self) -> None:
        pid = self._supervisor()
        if not pid:
            return
        with suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                with suppress(PodwireError):
                    control.call(self._paths.control_socket, "stop")
                if not select.select([pidfd], [], [], STOP_TIMEOUT_S)[0]:
                    os.kill(pid, signal.SIGKILL)  # its children end with it
                    select.select([pidfd], [], [], STOP_TIMEOUT_S)
            finally:
                os.close(pidfd)

    # --- joining --------------------------------------------------------------------------------------------------------------

    def _joined(self, name: str) -> bool:
        return (self._paths.node(name) / "cert.pem").exists() or (self._paths.node(name) / "join.json").exists()

    async def _introduce(self, nodes: Sequence[NodeSpec]) -> None:
        """Returns when the controller answers and each of these nodes has what it joins with; its agent waits for the file."""
        members = json.loads(self._disk.read(self._paths.members_file) or b"{}")
        address = layout.controller_address(parse_cidr(members["underlay"], "underlay")).ip
        from podwire.client import connect  # noqa: PLC0415 - brings gRPC, once the supervisor has been spawned

        async with connect(socket=self._paths.controller_socket) as client:
            await self._await_controller(client)
            await asyncio.gather(*(self._hand_token(client, node, address) for node in nodes))

    async def _hand_token(self, client: ControlClient, node: NodeSpec, controller: IPAddress) -> None:
        token = await client.create_join_token(node.name, zone=node.zone, labels=node.labels)
        papers = {
            "controller": layout.controller_url(controller, layout.CONTROLLER_PORT),
            "join": layout.controller_url(controller, layout.JOIN_PORT),
            "node": node.name,
            "token": token.token,
            "ca_spki_sha256": token.ca_spki_sha256,
        }
        self._disk.replace(self._paths.node(node.name) / "join.json", json.dumps(papers).encode())

    async def _await_controller(self, client: ControlClient) -> None:
        """Returns when the controller answers; raises Unavailable with its last words when it does not come up."""
        deadline = self._clock.monotonic() + START_TIMEOUT_S
        before = self._controller_ends()
        while True:
            try:
                await client.status()
            except Unavailable:
                if self._controller_ends() - before >= HOPELESS or self._clock.monotonic() >= deadline:
                    raise self._controller_failed() from None
                await self._clock.sleep(POLL_S)
            else:
                return

    def _controller_ends(self) -> int:
        ends: int = control.call(self._paths.control_socket, "controller")
        return ends

    def _controller_failed(self) -> Unavailable:
        log = self._paths.logs / "controller.log"
        words = (self._disk.read(log) or b"").decode(errors="replace").strip().rpartition("\n")[2]
        return Unavailable(f"the controller does not start: {words or 'it says nothing'}", hint=f"see {log}")


def helper_program() -> Path:
    """The static helper as installed; raises Unsupported where it was not built."""
    package = importlib.util.find_spec("nodeagent")
    locations = list(package.submodule_search_locations or []) if package else []
    found = [path for path in (Path(place) / "helper" / "podwire-helper" for place in locations) if path.exists()]
    if not found:
        raise Unsupported(
            "podwire-helper was not built", hint="install a C compiler (apt-get install gcc) and run: make protos"
        )
    return found[0]
