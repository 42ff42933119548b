"""Privileged or restricted node containers: what was asked, what the engine answers, and what is remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import docker.errors
import pytest
import requests

from compose.engine import Engine
from podwire.drivers.docker import privileges
from podwire.drivers.docker.containers import Containers
from podwire.drivers.docker.privileges import ASKED_FOR, PRIVILEGED, RESTRICTED, Verdicts
from podwire.errors import Unavailable
from podwire.seams import SystemDisk

ENGINE = Engine("unix:///nowhere", "20.10.24+dfsg1", "x86_64", ("docker-compose",))
OLD_RUNC = (
    "OCI runtime create failed: container_linux.go:380: starting container process caused: "
    "apply caps: operation not permitted: unknown"
)
NEW_RUNC = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: "
    "unable to start container process: unable to apply caps: operation not permitted: unknown"
)


def api_error(status: int, explanation: str) -> docker.errors.APIError:
    response = requests.Response()
    response.status_code = status
    kind = docker.errors.NotFound if status == 404 else docker.errors.APIError
    error: docker.errors.APIError = kind("failed", response=response, explanation=explanation)
    return error


class FakeContainers:
    """As much of the SDK as asking about privileges takes."""

    def __init__(self, *, on_create: Exception | None = None, on_start: Exception | None = None) -> None:
        self.on_create, self.on_start = on_create, on_start
        self.containers = self
        self.left: list[str] = []

    def create(self, image: str, **settings: Any) -> FakeContainers:
        assert settings["privileged"]
        if self.on_create:
            raise self.on_create
        self.left.append(image)
        return self

    def start(self) -> None:
        if self.on_start:
            raise self.on_start

    def remove(self, *, force: bool) -> None:
        self.left.pop()


def ask(client: FakeContainers) -> str:
    containers = Containers("demo", ENGINE)
    vars(containers)["_client"] = client
    answer = containers.refusal("podwire:dev")
    assert client.left == []
    return answer


def test_an_engine_that_grants() -> None:
    assert ask(FakeContainers()) == ""


@pytest.mark.parametrize(
    ("said", "reason"),
    [(OLD_RUNC, "apply caps: operation not permitted"), (NEW_RUNC, "unable to apply caps: operation not permitted")],
)
def test_a_runtime_that_may_not(said: str, reason: str) -> None:
    """Engine 20.10 on a host without CAP_SYS_RESOURCE; what was created for the question is removed."""
    refused = ask(FakeContainers(on_start=api_error(500, said)))
    assert refused == f"Docker Engine 20.10.24+dfsg1 refuses privileged containers: {reason}"


def test_an_engine_that_forbids() -> None:
    said = "privileged mode is incompatible with user namespaces"
    assert ask(FakeContainers(on_create=api_error(400, said))).endswith(said)


@pytest.mark.parametrize("error", [api_error(500, "no space left on device"), api_error(404, "No such image")])
def test_other_failures_say_nothing_about_privileges(error: docker.errors.APIError) -> None:
    with pytest.raises(docker.errors.APIError):
        ask(FakeContainers(on_create=error))


def unasked() -> str:
    raise AssertionError


def test_what_is_asked_counts_and_the_engine_is_not_tried() -> None:
    assert privileges.decide(True, {}, unasked) == (RESTRICTED, ASKED_FOR)


def test_where_nothing_is_asked_a_restricted_cluster_stays_restricted() -> None:
    assert privileges.decide(None, {"why": ASKED_FOR}, unasked) == (RESTRICTED, ASKED_FOR)
    assert privileges.decide(False, {"why": ASKED_FOR}, lambda: "") == (PRIVILEGED, "")


@pytest.mark.parametrize("asked", [None, False])
def test_where_the_engine_refuses_nodes_are_restricted(asked: bool | None) -> None:
    assert privileges.decide(asked, {}, lambda: "it refuses") == (RESTRICTED, "it refuses")
    assert privileges.decide(asked, {}, lambda: "") == (PRIVILEGED, "")


def test_each_engine_is_asked_once(tmp_path: Path) -> None:
    answers = iter(["it refuses", ""])
    verdicts = Verdicts(SystemDisk(), tmp_path / "engines.json")
    assert verdicts.known("one") is None
    for _ in range(2):
        assert verdicts.of("one", lambda: next(answers)) == "it refuses"
        assert verdicts.of("two", lambda: next(answers)) == ""
    assert Verdicts(SystemDisk(), tmp_path / "engines.json").known("one") == "it refuses"


def test_a_question_that_failed_is_asked_again(tmp_path: Path) -> None:
    verdicts = Verdicts(SystemDisk(), tmp_path / "engines.json")

    def fail() -> str:
        raise Unavailable("the disk is full")

    with pytest.raises(Unavailable):
        verdicts.of("one", fail)
    assert verdicts.known("one") is None


@pytest.mark.parametrize(
    ("made_with", "known", "value"),
    [
        ({"privileges": PRIVILEGED, "why": ""}, "", "privileged"),
        ({"privileges": RESTRICTED, "why": ASKED_FOR}, "", "restricted (asked for with --restricted)"),
        ({"privileges": RESTRICTED, "why": "it refuses"}, "it refuses", "restricted (it refuses)"),
        ({}, "it refuses", "restricted (it refuses)"),
        ({}, "", "privileged"),
        ({}, None, "not tried on this engine yet; the first `podwire up` tries"),
    ],
)
def test_doctor_says_which(made_with: dict[str, str], known: str | None, value: str) -> None:
    fact = privileges.fact(made_with, known)
    assert (fact.ok, fact.value) == (True, value)
    assert bool(fact.fix) == ("it refuses" in value)
