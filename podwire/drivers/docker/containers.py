"""What the Docker Engine has of one cluster, through the docker SDK: containers, volumes, networks, and files inside containers.

In: a cluster's name and an engine. Out: the SDK's containers for the driver to act on, and podwire's errors where the SDK raises its own
(`sdk_errors`). Everything is found by label. Only this module imports the SDK, when first asked: that takes a quarter of a second.
"""

from __future__ import annotations

import contextlib
import io
import ipaddress
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar

from compose import generate
from compose.engine import Engine
from podwire.drivers.base import DriverNode
from podwire.drivers.docker import privileges
from podwire.errors import NotFound, Unavailable
from podwire.model.addresses import IPNetwork

Item = TypeVar("Item")
Result = TypeVar("Result")

_STATES = {"running": "running", "paused": "paused"}


class Containers:
    """One cluster on one engine."""

    def __init__(self, cluster: str, engine: Engine) -> None:
        self._cluster = cluster
        self.engine = engine

    @cached_property
    def _client(self) -> Any:
        import docker  # noqa: PLC0415 - see above

        return docker.DockerClient(base_url=self.engine.host, timeout=60)

    def all(self, role: str = "") -> list[Any]:
        """The cluster's containers, in whatever state; with a role, those that have it."""
        found: list[Any] = self._client.containers.list(all=True, filters=self._filter(role), ignore_removed=True)
        return found

    def get(self, name: str) -> Any:
        """The container of a node, or of the controller; raises NotFound."""
        import docker.errors  # noqa: PLC0415 - see above

        wanted = generate.container_name(self._cluster, name)
        try:
            return self._client.containers.get(wanted)
        except docker.errors.NotFound as error:
            what = "the controller" if name == generate.CONTROLLER else f"node {name!r}"
            raise NotFound(f"{what} of cluster {self._cluster!r} has no container", hint="podwire up") from error

    def remove_all(self) -> None:
        """Containers, then the network, then volumes: each holds the next."""
        parallel(lambda container: container.remove(force=True, v=True), self.all())
        for network in self._client.networks.list(filters=self._filter()):
            network.remove()
        self.drop_volumes(keep=())

    def drop_volumes(self, keep: Collection[str]) -> None:
        """Removes the state of nodes that are no more."""
        kept = {generate.volume_name(self._cluster, name) for name in keep}
        for volume in self._client.volumes.list(filters=self._filter()):
            if volume.name not in kept:
                volume.remove(force=True)

    def ranges(self) -> tuple[tuple[IPNetwork, ...], list[IPNetwork]]:
        """Address ranges of the cluster's own network, and of all others on this engine."""
        own: tuple[IPNetwork, ...] = ()
        others: list[IPNetwork] = []
        for network in self._client.networks.list():
            pools = (network.attrs.get("IPAM") or {}).get("Config") or []
            found = tuple(ipaddress.ip_network(pool["Subnet"]) for pool in pools if pool.get("Subnet"))
            if (network.attrs.get("Labels") or {}).get(generate.CLUSTER_LABEL) == self._cluster:
                own = tuple(sorted(found, key=lambda each: each.version))
            else:
                others += found
        return own, others

    def engine_identity(self) -> str:
        """Names the engine and its version: what it refuses today it will refuse tomorrow."""
        return f"{self._client.info().get('ID', '')}/{self.engine.version}"

    def refusal(self, image: str) -> str:
        """Why the engine does not run privileged containers; empty when it does. Found out by starting one."""
        import docker.errors  # noqa: PLC0415 - see above

        container = None
        try:
            container = self._client.containers.create(
                image, entrypoint=["true"], command=[], privileged=True, network_mode="none"
            )
            container.start()
        except docker.errors.APIError as error:
            said = str(error.explanation or error)
            forbidden = error.is_client_error() and not isinstance(error, docker.errors.NotFound)
            if not forbidden and "OCI runtime" not in said:
                raise  # a full disk, for one, says nothing about privileges
            return privileges.refusal(self.engine.version, said)
        finally:
            if container is not None:
                container.remove(force=True)
        return ""

    def _filter(self, role: str = "") -> dict[str, list[str]]:
        roles = [f"{generate.ROLE_LABEL}={role}"] if role else []
        return {"label": [f"{generate.CLUSTER_LABEL}={self._cluster}", *roles]}


@contextlib.contextmanager
def sdk_errors() -> Iterator[None]:
    """What the SDK raises becomes one sentence of ours."""
    import docker.errors  # noqa: PLC0415 - see above
    import requests.exceptions  # noqa: PLC0415 - see above

    try:
        yield
    except docker.errors.APIError as error:
        raise Unavailable(f"the Docker Engine refused: {error.explanation or error}") from error
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise Unavailable(f"the Docker Engine does not answer: {error}", hint="is it running?") from error


def parallel(act: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Acts on all of them at once; the engine answers several requests at a time."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(act, items))


def start(container: Any) -> None:
    """Starts a container unless it runs; a paused one stays so."""
    if container.status not in {"running", "paused"}:
        container.start()


def execute(container: Any, *command: str) -> str:
    """Runs a command in a container; its output, or Unavailable with the last line of what it complained."""
    code, (output, complaint) = container.exec_run(list(command), demux=True)
    if code != 0:
        said = (complaint or output or b"").decode(errors="replace").strip().splitlines()
        raise Unavailable(f"{container.name} could not run {command[0]}: {(said or [f'exit code {code}'])[-1]}")
    return (output or b"").decode()


def write_file(container: Any, directory: str, name: str, content: bytes, owner: int = 0) -> None:
    """Puts a file into a container, running or not, readable by its owner only."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode, entry.uid, entry.gid = len(content), 0o600, owner, owner
        tar.addfile(entry, io.BytesIO(content))
    container.put_archive(directory, archive.getvalue())


def read_file(container: Any, path: str) -> bytes | None:
    """A file out of a container; None where there is none."""
    import docker.errors  # noqa: PLC0415 - see above

    try:
        chunks, _ = container.get_archive(path)
    except docker.errors.NotFound:
        return None
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
        member = tar.extractfile(tar.getmembers()[0])
        return member.read() if member else None


def driver_node(container: Any) -> DriverNode:
    """A node's container as the driver's users see it."""
    networks = container.attrs["NetworkSettings"]["Networks"].values()
    address = next((network["IPAddress"] for network in networks if network.get("IPAddress")), "")
    state = _STATES.get(container.status, "stopped")
    return DriverNode(container.labels[generate.NODE_LABEL], state, address, detail=container.name)
