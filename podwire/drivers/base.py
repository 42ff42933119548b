"""Drivers: how nodes come to be. The command line talks to this protocol; `docker.py` and `local/` fulfil it.

In: a checked `ClusterSpec`. Out: running nodes whose agents join the controller by themselves, and the `Endpoint` where that controller
answers. A driver knows processes, containers and credentials; what is in the cluster it leaves to the controller. Every verb is safe
to repeat. What is remembered between commands stands in `state_directory(cluster)`, mode 0700, and `driver.json` there says which
driver made the cluster.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from podwire.errors import NotFound
from podwire.model.cluster import ClusterSpec, NodeSpec
from podwire.seams import Disk

DRIVERS = ("docker", "local")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a cluster's controller answers: a Unix socket, or an address with mTLS and the directory of ca.pem, client.pem, client.key."""

    socket: Path | None = None
    address: str = ""
    credentials: Path | None = None


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `up` was asked beside the document."""

    restricted: bool | None = None  # None: as the cluster was made, else privileged where the engine grants it
    timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class DriverNode:
    """A node as its driver sees it; the controller's view of it is its Node object."""

    name: str
    state: str  # "running" | "paused" | "stopped"
    address: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of `doctor`: what was looked at, what was found, whether that is good enough, and the exact fix where not."""

    name: str
    value: str
    ok: bool
    fix: str = ""


Progress = Callable[[str], AbstractContextManager[None]]
"""`with progress("Starting 3 nodes"): …` shows a stage and how long it took; an exception marks it as failed."""


class Driver(Protocol):
    """One cluster's driver. Errors are podwire's: Unsupported where this machine cannot, Unavailable where something does not answer."""

    name: str

    async def up(self, spec: ClusterSpec, options: UpOptions, progress: Progress) -> Endpoint:
        """Makes what is missing, removes nodes that the specification no longer has, and returns when the controller answers; nodes
        join on their own after that. Changes nothing where all is there.
        """

    async def down(self, progress: Progress) -> None:
        """Removes the cluster and everything made for it; no error where there is none."""

    async def endpoint(self) -> Endpoint:
        """Where the controller answers now. Raises Unavailable where the cluster does not run."""

    async def nodes(self) -> Sequence[DriverNode]:
        """The nodes there are, sorted by name."""

    async def add_node(self, node: NodeSpec) -> None:
        """Starts one more node. Raises AlreadyExists."""

    async def delete_node(self, name: str) -> None:
        """Ends a node and forgets its state. Raises NotFound."""

    async def pause_node(self, name: str) -> None:
        """Stops every process of the node where it is. Raises NotFound."""

    async def resume_node(self, name: str) -> None:
        """The reverse. Raises NotFound."""

    async def restart_node(self, name: str) -> None:
        """Ends the node and starts it anew with the same name and durable state. Raises NotFound."""

    async def facts(self) -> Sequence[Fact]:
        """What this driver needs of the machine, and whether it is there."""


def state_home() -> Path:
    """Directory of everything that commands remember: one subdirectory per cluster."""
    home = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(home) / "podwire"


def state_directory(cluster: str) -> Path:
    """The cluster's directory; it exists from the first `up` to `down`."""
    return state_home() / cluster


def known_clusters() -> list[str]:
    """Clusters that `up` made and `down` did not remove yet, sorted."""
    home = state_home()
    return sorted(entry.parent.name for entry in home.glob("*/driver.json")) if home.is_dir() else []


def remember(cluster: str, driver: str, document: Mapping[str, Any], disk: Disk) -> None:
    """Notes which driver makes the cluster and from what document, before anything of it exists: so `down` finds what a broken `up`
    left, and `up` without arguments means the same cluster again.
    """
    content = json.dumps({"driver": driver, "document": document}, indent=2).encode()
    path = _memory(cluster)
    if disk.read(path) != content:
        disk.replace(path, content)


def remembered_driver(cluster: str, disk: Disk) -> str:
    """Which driver made the cluster; raises NotFound where there is no such cluster."""
    content = disk.read(_memory(cluster))
    if content is None:
        others = ", ".join(known_clusters())
        hint = f"clusters here: {others}; choose one with --cluster" if others else "make one with: podwire up"
        raise NotFound(f"there is no cluster {cluster!r} here", hint=hint)
    return str(json.loads(content)["driver"])


def remembered_document(cluster: str, disk: Disk) -> dict[str, Any] | None:
    """The Cluster document that the cluster was last made from; None where there is no such cluster."""
    content = disk.read(_memory(cluster))
    return dict(json.loads(content)["document"]) if content is not None else None


def _memory(cluster: str) -> Path:
    return state_directory(cluster) / "driver.json"
