"""Looking and reaching into nodes and pods of a cluster that is up: their processes, their namespaces, programs run there.

In: a `Cluster` of either driver. Out: PIDs as this machine sees them, and command lines that enter. A test that kills, stops or watches
does so here, behind podwire's back; only a pod's sandbox is asked of podwire itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from compose import generate
from podwire.drivers.base import state_directory
from podwire.drivers.local import processes
from podwire.errors import PodwireError
from tests.cluster.harness import Cluster, docker, eventually

CONTROLLER = generate.CONTROLLER
INIT, AGENT, WORKLOAD, HELPER = "init", "agent", "workload", "helper"
# What tells a process of a container from the others there.
_COMMAND_LINES = {
    AGENT: "-m nodeagent --",
    WORKLOAD: "-m nodeagent.workload",
    HELPER: "podwire-helper serve",
    CONTROLLER: "-m controller --",
}


class Inside:
    """One cluster from within."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._name = cluster.spec.name

    @property
    def is_local(self) -> bool:
        return self.cluster.driver.name == "local"

    def pid(self, node: str, process: str) -> int:
        """PID of one of a node's processes, or of the controller (node and process the same), or 0 while it does not run."""
        if not self.is_local:
            return self._pid_in_container(node, process)
        directory = state_directory(self._name)
        if process == CONTROLLER:
            supervisor = json.loads((directory / "supervisor.json").read_text())["pid"]
            names = {_command(pid): pid for pid in processes.below(supervisor) if processes.parent(pid) == supervisor}
            return names.get("podwire-control", 0)
        found: dict[str, int] = json.loads((directory / "nodes" / node / "processes.json").read_text())
        pid = found.get(process, 0)
        return pid if processes.start_time(pid) is not None else 0

    def _pid_in_container(self, node: str, process: str) -> int:
        root = int(docker("inspect", "--format", "{{.State.Pid}}", generate.container_name(self._name, node)))
        if process == INIT:
            return root
        wanted = _COMMAND_LINES[process]
        return next((pid for pid in processes.below(root) if wanted in _command_line(pid)), 0) if root else 0

    def node(self, node: str, *command: str) -> list[str]:
        """The command line that runs a command with a node's network and files."""
        return ["nsenter", "-t", str(self.pid(node, INIT)), "-n", "-m", "-u", "--", *command]

    @property
    def python(self) -> str:
        return sys.executable if self.is_local else "python3"

    @property
    def controller_state(self) -> Path:
        """The controller's durable files, by way of its own view of them."""
        if self.is_local:
            return state_directory(self._name) / "controller"
        return Path(f"/proc/{self.pid(CONTROLLER, INIT)}/root{generate.CONTROLLER_STATE}")

    def run(self, node: str, *command: str) -> str:
        """Runs a command with a node's network and files; returns what it says."""
        return subprocess.run(self.node(node, *command), check=True, capture_output=True, text=True, timeout=20).stdout

    async def pin(self, pod: str, namespace: str = "default") -> tuple[str, str]:
        """A pod's node, and the path there that pins its network namespace."""
        found: list[str] = []

        async def pinned() -> bool:
            """Agents that were killed may be on their way back."""
            with contextlib.suppress(PodwireError):
                facts = await client.inspect(node)
                found[:] = [fact.attributes["pin"] for fact in facts if fact.kind == "sandbox" and fact.owner == uid]
            return len(found) == 1

        async with self.cluster.client() as client:
            document = await client.get("pods", pod, namespace=namespace)
            node, uid = document["spec"]["nodeName"], document["metadata"]["uid"]
            await eventually(pinned, f"pod {pod} has no sandbox", within_s=10)
        return node, found[0]

    async def pod(self, pod: str, *command: str) -> list[str]:
        """The command line that runs a command with a pod's network and its node's files."""
        node, pin = await self.pin(pod)
        return self.node(node, "nsenter", f"--net={pin}", "--", *command)

    def kill(self, node: str, process: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Signals a process; returns its PID."""
        pid = self.pid(node, process)
        assert pid, f"{process} of {node} does not run"
        os.kill(pid, number)
        return pid

    @contextlib.contextmanager
    def dead(self, node: str, process: str) -> Iterator[None]:
        """A process is killed, and its supervisor held so that it stays dead within the block."""
        pid = self.pid(node, process)
        supervisor = processes.parent(pid)
        os.kill(supervisor, signal.SIGSTOP)
        try:
            os.kill(pid, signal.SIGKILL)
            yield
        finally:
            os.kill(supervisor, signal.SIGCONT)

    @contextlib.contextmanager
    def stopped(self, node: str, process: str) -> Iterator[None]:
        """A process stands still within the block."""
        pid = self.kill(node, process, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


@contextlib.asynccontextmanager
async def listening(command: Sequence[str], says: str = "") -> AsyncIterator[Callable[[], Awaitable[list[str]]]]:
    """A program that watches within the block; calling what is yielded ends it and gives the lines it has written.

    `says` stands in a line on its standard error once it watches.
    """
    pipe = asyncio.subprocess.PIPE
    watcher = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)

    async def lines() -> list[str]:
        with contextlib.suppress(ProcessLookupError):
            watcher.terminate()
        output, _ = await watcher.communicate()
        return output.decode().splitlines()

    try:
        assert watcher.stderr is not None
        while says and says not in (line := await asyncio.wait_for(watcher.stderr.readline(), 10)).decode():
            assert line, f"{command} ended"
        yield lines
    finally:
        if watcher.returncode is None:
            await lines()


async def output(command: Sequence[str]) -> str:
    """What a program writes; it must succeed."""
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    written, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, f"{command} ended with {process.returncode}"
    return written.decode()
