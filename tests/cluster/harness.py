"""What the cluster tests share: clusters that are up, waiting for what must come true, and the docker command as oracle."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

from compose import generate
from podwire.client import ControlClient, connect
from podwire.drivers.base import Driver, UpOptions, remember
from podwire.drivers.docker import DockerDriver
from podwire.drivers.local.driver import LocalDriver
from podwire.errors import PodwireError
from podwire.model.cluster import API_VERSION, ClusterSpec, parse_cluster
from podwire.seams import SystemClock, SystemDisk

NODES = [{"name": "a", "zone": "z1"}, {"name": "b", "zone": "z2"}, {"name": "c", "zone": "z2"}]
UP_WITHIN_S = 60.0


@contextlib.contextmanager
def no_progress(_stage: str) -> Iterator[None]:
    """Stages are for people."""
    yield


def cluster_spec(name: str, nodes: object = NODES, **spec: object) -> ClusterSpec:
    """A Cluster document for tests."""
    return parse_cluster(
        {"apiVersion": API_VERSION, "kind": "Cluster", "metadata": {"name": name}, "spec": {"nodes": nodes, **spec}}
    )


async def eventually(holds: Callable[[], Awaitable[bool]], what: str, within_s: float = UP_WITHIN_S) -> None:
    """Waits until a condition holds; the deadline says what was waited for."""
    clock = SystemClock()
    deadline = clock.monotonic() + within_s
    while not await holds():
        assert clock.monotonic() < deadline, f"after {within_s:.0f} s: {what}"
        await clock.sleep(0.05)


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up."""

    spec: ClusterSpec
    driver: Driver
    restricted: bool = False

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[ControlClient]:
        """A client of its controller, where that answers now."""
        endpoint = await self.driver.endpoint()
        async with connect(
            socket=endpoint.socket, address=endpoint.address, credentials=endpoint.credentials
        ) as client:
            yield client

    async def all_ready(self) -> bool:
        """Whether every node of the specification is Ready."""
        try:
            async with self.client() as client:
                status = await client.status()
        except PodwireError:
            return False
        ready = {node.name for node in status.nodes if node.ready and node.connected}
        return ready == {node.name for node in self.spec.nodes}


@contextlib.asynccontextmanager
async def running(spec: ClusterSpec, *, restricted: bool = False, local: bool = False) -> AsyncIterator[Cluster]:
    """A cluster that is up within the block."""
    driver: Driver = LocalDriver(spec.name) if local else DockerDriver(spec.name)
    cluster = Cluster(spec, driver, restricted)
    try:
        remember(spec.name, driver.name, spec.document(), SystemDisk())  # so that the command line knows the cluster
        await driver.up(spec, UpOptions(restricted=restricted), no_progress)
        await eventually(cluster.all_ready, f"not every node of {spec.name} is Ready")
        yield cluster
    finally:
        await driver.down(no_progress)


def held(spec: ClusterSpec, *, restricted: bool = False, local: bool = False) -> Iterator[Cluster]:
    """A cluster that is up between two steps of a fixture."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        context = running(spec, restricted=restricted, local=local)
        cluster = runner.run(context.__aenter__())
        yield cluster
        runner.run(context.__aexit__(None, None, None))


def docker(*arguments: str) -> str:
    """Runs the docker command: the oracle of these tests."""
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


def containers(cluster: str) -> dict[str, tuple[str, str]]:
    """Name → (ID, when it was started) of a cluster's containers."""
    names = docker("ps", "-a", "-q", "--filter", f"label={generate.CLUSTER_LABEL}={cluster}").split()
    if not names:
        return {}
    inspected = json.loads(docker("inspect", *names))
    return {each["Name"].lstrip("/"): (each["Id"], each["State"]["StartedAt"]) for each in inspected}
