"""A node's keeper: one process per node that makes its namespaces and keeps its processes running.

In: a `NodePlan`, in a process just forked by the supervisor (so everything is imported, and nothing of gRPC has started). Out: a node:
network, mount, UTS, IPC and PID namespaces, `eth0` on the underlay, a PID 1 that reaps, and below it the helper, the agent and the
workload host. The keeper itself stays outside the PID namespace, as a container engine's shim does. Its own end ends the node, by the
kernel's doing (each child dies with its parent, and a PID namespace with its first process), so nothing is ever left behind.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from podwire.drivers.local import fabric, syscalls
from podwire.drivers.local.family import Family, fork, run_module
from podwire.drivers.local.layout import NODE_RUN_DIR, NODE_STATE_DIR
from podwire.drivers.local.loop import Loop
from podwire.model.addresses import IPInterface
from podwire.seams import SystemClock, SystemDisk

INIT = "init"


@dataclass(frozen=True, slots=True)
class NodePlan:
    """What the keeper needs to know."""

    cluster: str
    name: str
    link: str  # name of the host end on the fabric bridge
    bridge_index: int
    address: IPInterface
    state_dir: Path
    helper: Path  # the static C helper


def keep(plan: NodePlan) -> int:
    """Makes the node and keeps it until it is told to stop or its PID 1 ends; returns the exit code."""
    underlay = os.open("/proc/self/ns/net", os.O_RDONLY)  # this process is still in the fabric's namespace
    syscalls.unshare(
        syscalls.CLONE_NEWNET
        | syscalls.CLONE_NEWNS
        | syscalls.CLONE_NEWUTS
        | syscalls.CLONE_NEWIPC
        | syscalls.CLONE_NEWPID
    )
    socket.sethostname(plan.name)
    fabric.attach_node(
        cluster=plan.cluster,
        node=plan.name,
        link=plan.link,
        fabric=underlay,
        bridge_index=plan.bridge_index,
        address=plan.address,
    )
    os.close(underlay)
    _mount_node(plan.state_dir)
    return _Keeper(plan).run()


def _mount_node(state_dir: Path) -> None:
    state = os.open(
        state_dir, os.O_PATH | os.O_DIRECTORY
    )  # by descriptor: its path may be below the /run that is covered next
    syscalls.mount("sysfs", "/sys", "sysfs", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
    syscalls.mount("tmpfs", "/run", "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=0755")
    for directory in (NODE_RUN_DIR, NODE_STATE_DIR):
        Path(directory).mkdir(mode=0o700)
    syscalls.mount(f"/proc/self/fd/{state}", NODE_STATE_DIR, flags=syscalls.MS_BIND)
    os.close(state)


class _Keeper:
    """The loop of one node."""

    def __init__(self, plan: NodePlan) -> None:
        self._plan = plan
        self._logs = Path(NODE_STATE_DIR) / "logs"
        self._loop = Loop(SystemClock())
        self._family = Family(self._loop.clock)
        self._disk = SystemDisk()
        self._init = 0

    def run(self) -> int:
        self._loop.on_signal(signal.SIGCHLD, self._reap)
        self._init = self._start_init()
        for name, start in self._members().items():
            self._family.add(name, start)
        self._write_processes()
        self._loop.run(self._start_due)
        return 0

    def _members(self) -> dict[str, Callable[[], int]]:
        directories = ["--state-dir", NODE_STATE_DIR, "--run-dir", NODE_RUN_DIR]
        helper = str(self._plan.helper)
        return {
            "helper": self._forked(
                "helper", lambda: _execute(helper, "serve", "--socket", f"{NODE_RUN_DIR}/helper.sock")
            ),
            "workload": self._forked("workload", lambda: run_module("nodeagent.workload", directories)),
            "agent": self._forked("agent", lambda: run_module("nodeagent", directories)),
        }

    def _forked(self, name: str, work: Callable[[], int | None]) -> Callable[[], int]:
        return lambda: fork(f"podwire-{name}", str(self._logs / f"{name}.log"), work)

    def _start_init(self) -> int:
        """Starts PID 1, and returns when it has replaced itself: /proc is the node's own by then."""
        reading, writing = os.pipe()  # closed by exec: end of file says that the mount is in place

        def become_init() -> None:
            syscalls.mount("proc", "/proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
            _execute(str(self._plan.helper), "init")

        pid = fork("podwire-init", str(self._logs / "init.log"), become_init, keep=(writing,))
        os.close(writing)
        os.read(reading, 1)
        os.close(reading)
        return pid

    def _start_due(self) -> float | None:
        before = [member.pid for member in self._family]
        wait = self._family.start_due()
        if [member.pid for member in self._family] != before:
            self._write_processes()
        return wait

    def _reap(self) -> None:
        if self._init in self._family.reap():
            self._loop.stop()  # the kernel has ended everything in the node; the supervisor starts it anew

    def _write_processes(self) -> None:
        processes = {INIT: self._init} | {member.name: member.pid for member in self._family}
        with suppress(OSError):  # on a full disk `status` shows old numbers; the node runs all the same
            self._disk.replace(Path(NODE_STATE_DIR) / "processes.json", json.dumps(processes).encode())


def _execute(program: str, *arguments: str) -> None:
    os.execv(program, [program, *arguments])  # noqa: S606 - no shell is wanted
