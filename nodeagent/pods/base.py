"""Containers as the life cycle sees them: what to run, how it ended, and the two kinds of runner behind one protocol.

In: a `ContainerRun`. Out: an `Exit`, which is on disk (`exit.json` in the run's directory) before anyone is told, so that it
survives the agent. `process.py` runs real processes through the C helper, `hosted.py` the built-in images and stand-ins through the
workload host; `lifecycle.py` decides when. Files of one run live in STATE/pods/UID.CONTAINER.ATTEMPT/: `log`, `exit.json`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nodeagent.kernel.base import Sandbox


@dataclass(frozen=True, slots=True, order=True)
class RunId:
    """One run of one container: `attempt` counts from 0 and is never reused for a pod UID."""

    uid: str
    container: str
    attempt: int

    def __str__(self) -> str:
        return f"{self.uid}/{self.container}/{self.attempt}"


@dataclass(frozen=True, slots=True)
class Port:
    """A declared container port; protocol is TCP, UDP or SCTP."""

    number: int
    protocol: str


@dataclass(frozen=True, slots=True)
class ContainerRun:
    """Everything a runner needs; nothing is looked up later."""

    id: RunId
    program: str  # "process", "stand-in", or a built-in's name ("netexec", "pause", …)
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    working_dir: str  # empty: /
    ports: tuple[Port, ...]
    sandbox: Sandbox
    hostname: str
    files: Path  # the pod's directory, with `hosts`, `resolv.conf` and `hostname`
    directory: Path  # this run's, for `log` and `exit.json`
    add_capabilities: tuple[str, ...] = ()
    drop_capabilities: tuple[str, ...] = ()
    privileged: bool = False
    pod: str = ""  # "namespace/name", for people
    image: str = ""  # as the manifest wrote it, for people


@dataclass(frozen=True, slots=True)
class Exit:
    """How a run ended. `code` is 128 + signal when a signal ended it; the workload host's death gives 137."""

    code: int
    signal: int
    started_unix_ms: int
    finished_unix_ms: int
    reason: str = ""  # "Completed", "Error", "OOMKilled", "StartError", "HostDied"
    message: str = ""


class Runner(Protocol):
    """Runs containers. Ids that are unknown raise NotFound; a start that cannot work raises KernelError or InvalidInput and leaves
    nothing behind.
    """

    async def start(self, run: ContainerRun) -> None:
        """Returns once the container runs. Starting an id that runs already is a no-op."""

    async def running(self) -> frozenset[RunId]:
        """What runs now, read from where it runs (never from the agent's memory): how a new agent finds its containers."""

    async def wait(self, run: RunId, directory: Path) -> Exit:
        """Waits for the end. Ends that happened while no agent lived are found in `exit.json`."""

    async def stop(self, run: RunId, grace_s: float) -> None:
        """TERM, and after the grace KILL; returns when it is gone. Stopping what is gone is a no-op."""

    async def close(self) -> None:
        """Lets go of handles; containers go on."""
