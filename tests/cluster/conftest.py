"""Clusters for this tier: made once per session by the docker driver, privileged and restricted, on the engine there is.

In: an engine (else the tests that need one are skipped). Out: `docker_cluster`, one fixture in both privilege modes, and pytest-docker's
own fixtures pointed at the compose document that the driver generated, so that `docker_services` is the same cluster.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from compose import engine as engines
from compose import generate
from compose.engine import Engine
from podwire.drivers.base import state_directory
from podwire.errors import PodwireError
from tests.cluster.harness import Cluster, cluster_spec, held


@pytest.fixture(scope="session")
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Clusters of tests are remembered apart from the user's."""
    home = tmp_path_factory.mktemp("state")
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(home)
    yield home
    if before is None:
        del os.environ["XDG_STATE_HOME"]
    else:
        os.environ["XDG_STATE_HOME"] = before


@pytest.fixture(scope="session")
def docker_engine() -> Engine:
    """The engine there is."""
    try:
        engine = engines.find()
    except PodwireError as error:
        pytest.skip(error.message)
    if engine is None:
        pytest.skip("no Docker Engine answers; `make test-cluster` starts one as root on Debian and Ubuntu")
    return engine


@pytest.fixture(scope="session")
def privileged_cluster(docker_engine: Engine, own_state: Path) -> Iterator[Cluster]:
    """Three nodes as the card says: privileged where the engine grants it."""
    yield from held(cluster_spec("test-privileged"))


@pytest.fixture(scope="session")
def restricted_cluster(docker_engine: Engine, own_state: Path) -> Iterator[Cluster]:
    """Three nodes with two capabilities, and pods of both address families."""
    yield from held(cluster_spec("test-restricted", podCIDRv6="fd00:77::/48"), restricted=True)


@pytest.fixture(scope="session", params=["privileged", "restricted"])
def docker_cluster(request: pytest.FixtureRequest) -> Cluster:
    """Both, one after the other: a test that takes this runs twice."""
    cluster: Cluster = request.getfixturevalue(f"{request.param}_cluster")
    return cluster


@pytest.fixture(scope="session")
def local_cluster(own_state: Path) -> Iterator[Cluster]:
    """Three nodes of the local driver."""
    if os.geteuid() != 0:
        pytest.skip("looks into nodes: needs root")
    yield from held(cluster_spec("test-here"), local=True)


@pytest.fixture(scope="session", params=["local", "docker"])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """One per driver: a test that takes this runs twice."""
    name = "local_cluster" if request.param == "local" else "privileged_cluster"
    made: Cluster = request.getfixturevalue(name)
    return made


@pytest.fixture(scope="session")
def docker_compose_command(docker_engine: Engine) -> str:
    """pytest-docker: the compose there is."""
    return " ".join(docker_engine.compose)


@pytest.fixture(scope="session")
def docker_compose_file(privileged_cluster: Cluster) -> str:
    """pytest-docker: the document that the driver generated."""
    return str(state_directory(privileged_cluster.spec.name) / "compose.json")


@pytest.fixture(scope="session")
def docker_compose_project_name(privileged_cluster: Cluster) -> str:
    """pytest-docker: the driver's project."""
    return generate.project(privileged_cluster.spec.name)


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    """pytest-docker: what the driver made must be all that compose wants."""
    return ["up -d --no-build"]


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    """pytest-docker: the driver that made the cluster removes it."""
    return []
