"""A local cluster's supervisor: one detached process per cluster, from which everything else of it is forked.

In: flags from the driver, then commands on a Unix socket (one JSON line each way). Out: the fabric, a controller, and a keeper per
node, kept running; PID and start time in the state directory. Modules are imported once, here, before any fork, so that a new agent
costs a fork and not a start of Python; for the same reason nothing here may start a thread, an event loop or anything of gRPC. It is a
subreaper, and its end is the end of the cluster: every child dies with its parent, mounts and links with their namespaces.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podwire.drivers.local import control, layout, processes, syscalls
from podwire.drivers.local.fabric import Fabric
from podwire.drivers.local.family import Family, fork, run_module
from podwire.drivers.local.keeper import INIT, NodePlan, keep
from podwire.drivers.local.loop import Loop
from podwire.errors import AlreadyExists, InvalidInput, NotFound, PodwireError
from podwire.model.addresses import parse_cidr
from podwire.seams import SystemClock, SystemDisk

# Imported before the first fork, and shared by every child. The controller imports the rest of its own while the supervisor imports
# the nodes': there is more than one processor, and one controller.
SHARED = ("podwire.rpc", "podwire.tls", "podwire.api.v1.node_sync_pb2_grpc", "structlog")
OF_NODES = ("nodeagent.__main__", "nodeagent.workload.__main__")
CONTROLLER = "controller"
END_DEADLINE_S = 10.0


@dataclass(slots=True)
class _Node:
    """A node as the supervisor knows it."""

    name: str
    number: int  # its address, counted in the underlay
    paused: bool = False

    @property
    def link(self) -> str:
        return f"node{self.number}"

    @property
    def member(self) -> str:
        return f"node/{self.name}"


class Supervisor:
    """See the module's docstring; `start` once, then `run`."""

    def __init__(self, cluster: str, root: Path, helper: Path) -> None:
        self._cluster = cluster
        self._paths = layout.Layout(root)
        self._helper = helper
        self._disk = SystemDisk()
        self._loop = Loop(SystemClock())
        self._family = Family(self._loop.clock)
        self._fabric = Fabric()
        self._nodes: dict[str, _Node] = {}
        members = json.loads(self._disk.read(self._paths.members_file) or b"{}")
        self._underlay = parse_cidr(members["underlay"], "underlay")
        for name, number in members["nodes"].items():
            self._nodes[name] = _Node(name, number)

    def start(self) -> None:
        """Makes the fabric, starts the controller, and listens for commands."""
        self._loop.on_signal(signal.SIGCHLD, self._reap)
        self._loop.on_signal(signal.SIGTERM, self._loop.stop)
        self._fabric.make(self._cluster, layout.controller_address(self._underlay))
        _preload(SHARED)
        self._family.add(CONTROLLER, self._start_controller)
        control.Server(self._loop, self._paths.control_socket, self._verbs())

    def start_nodes(self) -> None:
        """Starts the nodes there were."""
        _preload(OF_NODES)
        for node in self._nodes.values():
            self._family.add(node.member, self._node_starter(node))

    def run(self) -> None:
        """Until told to stop; then ends everything."""
        self._loop.run(self._family.start_due)
        for member in list(self._family):
            self._family.discard(member.name)
            if member.pid:
                os.kill(member.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)

    # --- what runs ------------------------------------------------------------------------------------------------------------

    def _start_controller(self) -> int:
        address = layout.controller_address(self._underlay).ip
        arguments = ["--cluster", self._cluster, "--state-dir", str(self._paths.controller_state)]
        arguments += ["--cluster-file", str(self._paths.cluster_file), "--socket", str(self._paths.controller_socket)]
        arguments += ["--listen", layout.controller_url(address, layout.CONTROLLER_PORT)]
        arguments += ["--join-listen", layout.controller_url(address, layout.JOIN_PORT)]
        return fork(
            "podwire-control", str(self._paths.logs / "controller.log"), lambda: run_module("controller", arguments)
        )

    def _node_starter(self, node: _Node) -> Callable[[], int]:
        def start() -> int:
            self._await_end(node)
            self._fabric.drop(node.link)
            node.paused = False
            state = self._paths.node(node.name)
            logs = state / "logs"
            logs.mkdir(mode=0o700, parents=True, exist_ok=True)
            plan = NodePlan(
                cluster=self._cluster,
                name=node.name,
                link=node.link,
                bridge_index=self._fabric.bridge_index,
                address=layout.node_address(self._underlay, node.number),
                state_dir=state,
                helper=self._helper,
            )
            return fork("podwire-keeper", str(logs / "keeper.log"), lambda: keep(plan))

        return start

    def _await_end(self, node: _Node) -> None:
        """A node's former PID 1 has become our child with its keeper's end; while it dies, its namespaces still are there."""
        init = self._processes(node).get(INIT, 0)
        if not init or processes.parent(init) != os.getpid():
            return
        with suppress(ProcessLookupError):
            pidfd = os.pidfd_open(init)
            deadline = self._loop.clock.monotonic() + END_DEADLINE_S
            while self._loop.clock.monotonic() < deadline:
                self._family.reap()  # it cannot end before those of its processes that are our children are collected
                if select.select([pidfd], [], [], 0.02)[0]:
                    break
            os.close(pidfd)
            self._family.reap()

    def _processes(self, node: _Node) -> dict[str, int]:
        found: dict[str, int] = json.loads(self._disk.read(self._paths.processes_file(node.name)) or b"{}")
        return found

    def _reap(self) -> None:
        self._family.reap()

    # --- commands -------------------------------------------------------------------------------------------------------------

    def _verbs(self) -> dict[str, Callable[[str], Any]]:
        return {
            "nodes": self._list,
            "add": self._add,
            "delete": self._delete,
            "pause": self._pause,
            "resume": self._resume,
            "restart": self._restart,
            "controller": lambda _: self._controller_ends(),
            "stop": lambda _: self._loop.stop(),
        }

    def _controller_ends(self) -> int:
        return next(member.ends for member in self._family if member.name == CONTROLLER)

    def _list(self, _: str) -> list[dict[str, Any]]:
        return [
            {
                "name": node.name,
                "state": "paused" if node.paused else "running" if self._keeper(node) else "stopped",
                "address": str(layout.node_address(self._underlay, node.number).ip),
                "processes": self._processes(node),
            }
            for _, node in sorted(self._nodes.items())
        ]

    def _add(self, name: str) -> None:
        if name in self._nodes:
            raise AlreadyExists(f"node {name!r} exists in cluster {self._cluster!r}")
        number = layout.free_number({node.number for node in self._nodes.values()})
        layout.node_address(self._underlay, number)  # raises where the underlay is full, before anything is made
        node = _Node(name, number)
        self._nodes[name] = node
        try:
            self._remember()
        except OSError:
            del self._nodes[name]
            raise
        self._family.add(node.member, self._node_starter(node))

    def _delete(self, name: str) -> None:
        node = self._node(name)
        self._end(node, self._family.discard(node.member))
        self._await_end(node)
        self._fabric.drop(node.link)
        del self._nodes[name]
        self._remember()

    def _pause(self, name: str) -> None:
        node = self._node(name)
        keeper = self._keeper(node)
        if not keeper:
            raise InvalidInput(f"node {name!r} does not run")
        processes.signal_below(keeper, signal.SIGSTOP)
        node.paused = True

    def _resume(self, name: str) -> None:
        node = self._node(name)
        processes.signal_below(self._keeper(node), signal.SIGCONT)
        node.paused = False

    def _restart(self, name: str) -> None:
        node = self._node(name)
        self._family.hurry(node.member)
        self._end(node, self._keeper(node))

    def _end(self, node: _Node, keeper: int) -> None:
        if keeper:
            os.kill(keeper, signal.SIGKILL)  # and the kernel kills what is in the node
            self._family.wait(keeper)

    def _node(self, name: str) -> _Node:
        node = self._nodes.get(name)
        if node is None:
            known = ", ".join(sorted(self._nodes)) or "none"
            raise NotFound(f"there is no node {name!r} in cluster {self._cluster!r}", hint=f"nodes: {known}")
        return node

    def _keeper(self, node: _Node) -> int:
        return next((member.pid for member in self._family if member.name == node.member), 0)

    def _remember(self) -> None:
        members = {"underlay": str(self._underlay), "nodes": {node.name: node.number for node in self._nodes.values()}}
        self._disk.replace(self._paths.members_file, json.dumps(members).encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Starts the cluster, reports to the driver through `--ready-fd`, and stays until it is told to stop."""
    parser = argparse.ArgumentParser(prog="podwire-supervisor", description="supervisor of a local podwire cluster")
    parser.add_argument("--cluster", required=True)
    parser.add_argument("--directory", type=Path, required=True, help="the cluster's directory")
    parser.add_argument("--helper", type=Path, required=True, help="the podwire-helper program")
    parser.add_argument("--ready-fd", type=int, required=True, help="where to say that the cluster was started")
    values = parser.parse_args(argv)
    try:
        supervisor = _prepare(values.cluster, values.directory, values.helper)
        supervisor.start()
    except PodwireError as error:
        _report(values.ready_fd, {"error": type(error).__name__, "message": error.message, "hint": error.hint})
        return 1
    except OSError as error:
        _report(
            values.ready_fd,
            {"error": "Unsupported", "message": f"the local driver cannot start here: {error}", "hint": ""},
        )
        return 1
    _report(values.ready_fd, {"result": None})
    supervisor.start_nodes()
    supervisor.run()
    return 0


def _prepare(cluster: str, root: Path, helper: Path) -> Supervisor:
    paths = layout.Layout(root)
    pid = os.getpid()
    identity = {"pid": pid, "start_time": processes.start_time(pid)}
    SystemDisk().replace(paths.supervisor_file, json.dumps(identity).encode())
    syscalls.become_subreaper()
    syscalls.set_process_name("podwire-super")
    syscalls.enter_private_namespaces()  # before any import could start a thread
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return Supervisor(cluster, root, helper)


def _preload(modules: Sequence[str]) -> None:
    # structlog would import rich, for a console that nothing here has: a sixth of all that is imported.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # None is how an import is refused
    gc.disable()  # there is nothing to collect in modules, and looking takes a tenth of the time
    for module in modules:
        importlib.import_module(module)
    gc.enable()
    gc.freeze()  # the collector would touch, and so copy, every shared page in every child


def _report(fd: int, message: dict[str, Any]) -> None:
    with suppress(OSError):  # a driver that was interrupted does not listen any more
        os.write(fd, control.encode(message))
    os.close(fd)


if __name__ == "__main__":
    sys.exit(main())
