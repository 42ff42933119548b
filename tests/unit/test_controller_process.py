"""The controller as a program: it says when it listens, ends soon when told to, and comes back to the same store."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from podwire.client import connect
from podwire.errors import Unavailable
from podwire.model.cluster import API_VERSION
from podwire.seams import SystemClock

CLOCK = SystemClock()
PATIENCE_S = 20.0
STOP_S = 2.0  # it takes a tenth of that on an idle machine


@contextmanager
def controller(state: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A controller that listens."""
    command = [sys.executable, "-m", "controller", "--state-dir", str(state)]
    command += ["--listen", "", "--join-listen", ""]
    with (state / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log)
    try:
        deadline = CLOCK.monotonic() + PATIENCE_S
        while not (state / "ready").exists():
            if process.poll() is not None:
                raise Unavailable((state / "log").read_text())
            assert CLOCK.monotonic() < deadline
            CLOCK.pause(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    document = {"apiVersion": API_VERSION, "kind": "Cluster", "metadata": {"name": "lab"}}
    (tmp_path / "cluster.json").write_text(json.dumps(document))
    return tmp_path


def admin(state: Path, *arguments: str) -> dict[str, object]:
    command = [sys.executable, "-m", "controller.admin", "--state-dir", str(state), *arguments]
    made: dict[str, object] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return made


async def store_id(state: Path) -> str:
    async with connect(socket=state / "control.sock") as client:
        return (await client.status()).store_id


async def test_stops_soon_and_comes_back(state: Path) -> None:
    with controller(state) as process:
        first = await store_id(state)
        tokens = admin(state, "token", "a", "b")
        assert set(tokens) == {"a", "b"}
        assert set(admin(state, "client-cert", "me")) == {"ca", "cert", "key"}
        started = CLOCK.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert CLOCK.monotonic() - started < STOP_S
        assert not (state / "ready").exists()
    with controller(state):
        assert await store_id(state) == first


def test_a_wrong_document_is_one_sentence(state: Path) -> None:
    (state / "cluster.json").write_text(
        '{"apiVersion": "podwire.dev/v1alpha1", "kind": "Cluster", "spec": {"nodes": -1}}'
    )
    with pytest.raises(Unavailable, match=r"^controller: spec\.nodes: expected `int` >= 1\n$"), controller(state):
        pass
