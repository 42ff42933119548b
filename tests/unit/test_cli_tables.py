"""What stands in tables: one word for a pod, ages, selections; cases as kubectl has them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podwire.cli import humanize, podstatus
from podwire.cli.render import style_of
from podwire.cli.selection import Target, parse_label_changes, parse_labels, parse_target, parse_targets
from podwire.cli.tables import table
from podwire.cli.waiting import parse_wish
from podwire.errors import InvalidInput
from podwire.model.kinds import KINDS, kind_named, kind_of

DURATIONS = [
    (0.4, "0s"),
    (119, "119s"),
    (120, "2m"),
    (185, "3m5s"),
    (600, "10m"),
    (3 * 3600, "3h"),
    (3 * 3600 + 240, "3h4m"),
    (8 * 3600, "8h"),
    (47 * 3600, "47h"),
    (50 * 3600, "2d2h"),
    (9 * 86400, "9d"),
    (3 * 365 * 86400, "3y"),
    (-5, "0s"),
]


@pytest.mark.parametrize(("seconds", "text"), DURATIONS)
def test_durations_are_kubectls(seconds: float, text: str) -> None:
    assert humanize.duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "seconds"), [("60s", 60), ("1m30s", 90), ("500ms", 0.5), ("2h", 7200), ("7", 7), ("1.5s", 1.5)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert humanize.parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "5x", "s", "1m 30s", "-5s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        humanize.parse_duration(text)


@given(st.floats(min_value=0, max_value=1e9))
def test_any_age_has_at_most_two_units(seconds: float) -> None:
    assert len([char for char in humanize.duration(seconds) if char.isalpha()]) <= 2


def test_ages() -> None:
    assert humanize.age("1970-01-01T00:01:00Z", 70.0) == "10s"
    assert humanize.age("", 70.0) == humanize.UNKNOWN
    assert humanize.age("yesterday", 70.0) == humanize.UNKNOWN


def pod(
    *states: dict[str, Any], init: tuple[dict[str, Any], ...] = (), ready: bool = True, **status: Any
) -> dict[str, Any]:
    return {
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c"}] * len(states), "initContainers": [{"name": "i"}] * len(init)},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            "containerStatuses": [{"name": "c", "ready": ready, "restartCount": 1, "state": state} for state in states],
            "initContainerStatuses": [{"name": "i", "state": state} for state in init],
            **status,
        },
    }


RUNNING: dict[str, Any] = {"running": {}}
SUMMARIES = [
    ("running", pod(RUNNING), "Running"),
    ("pending", pod(phase="Pending"), "Pending"),
    ("crash loop", pod({"waiting": {"reason": "CrashLoopBackOff"}}), "CrashLoopBackOff"),
    ("completed", pod({"terminated": {"exitCode": 0, "reason": "Completed"}}, phase="Succeeded"), "Completed"),
    ("exit code", pod({"terminated": {"exitCode": 3}}), "ExitCode:3"),
    ("signal", pod({"terminated": {"exitCode": 137, "signal": 9}}), "Signal:9"),
    ("one of two ended", pod({"terminated": {"reason": "Completed"}}, RUNNING), "Running"),
    ("one of two ended, not ready", pod({"terminated": {"reason": "Completed"}}, RUNNING, ready=False), "Completed"),
    ("init running", pod({"waiting": {"reason": "PodInitializing"}}, init=(RUNNING,)), "Init:0/1"),
    ("init failed", pod(RUNNING, init=({"terminated": {"exitCode": 1, "reason": "Error"}},)), "Init:Error"),
    ("init crash loop", pod(RUNNING, init=({"waiting": {"reason": "CrashLoopBackOff"}},)), "Init:CrashLoopBackOff"),
    ("init done", pod(RUNNING, init=({"terminated": {"exitCode": 0}},)), "Running"),
    ("evicted", pod(reason="Evicted", phase="Failed"), "Evicted"),
    (
        "terminating",
        {**pod(RUNNING), "metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"}},
        "Terminating",
    ),
    ("nothing known", {"metadata": {"name": "p"}}, "Unknown"),
]


@pytest.mark.parametrize(("document", "word"), [case[1:] for case in SUMMARIES], ids=[case[0] for case in SUMMARIES])
def test_one_word_for_a_pod(document: dict[str, Any], word: str) -> None:
    assert podstatus.summary(document) == word


def test_stand_ins_are_marked() -> None:
    twin = pod(RUNNING)
    twin["status"]["conditions"].append({"type": "podwire.dev/StandIn", "status": "True"})
    assert table("pods", [twin], now=0).rows[0][2] == "Running (stand-in)"


def test_a_kind_without_a_table_has_name_and_age() -> None:
    assert table("clusters", [{"metadata": {"name": "c"}}], now=0).titles == ("NAME", "AGE")


def test_every_table_survives_an_empty_document() -> None:
    for kind in KINDS:
        rows = table(kind.resource, [{}], now=0, wide=True, namespaces=True, labels=True).rows
        assert all(isinstance(cell, str) and cell for cell in rows[0])


TARGETS: list[tuple[list[str], list[tuple[str, str]]]] = [
    (["pods"], [("pods", "")]),
    (["po,no"], [("pods", ""), ("nodes", "")]),
    (["Pod", "a", "b"], [("pods", "a"), ("pods", "b")]),
    (["pod/a", "node/b"], [("pods", "a"), ("nodes", "b")]),
    (["endpointslices.discovery.k8s.io"], [("endpointslices", "")]),
    (["deploy.apps/web"], [("deployments", "web")]),
]


@pytest.mark.parametrize(("words", "expected"), TARGETS)
def test_targets(words: list[str], expected: list[tuple[str, str]]) -> None:
    assert [(target.kind.resource, target.name) for target in parse_targets(words)] == expected


@pytest.mark.parametrize("words", [[], ["unicorns"], ["pod/a", "b"], ["pod/"], ["/a"], ["a/b/c"]])
def test_wrong_targets_are_refused(words: list[str]) -> None:
    with pytest.raises(InvalidInput):
        parse_targets(words)


def test_one_target() -> None:
    assert parse_target(["web"]) == Target(kind_named("pods"), "web")
    assert parse_target(["po/web"]) == Target(kind_named("pods"), "web")
    with pytest.raises(InvalidInput):
        parse_target(["pod/a", "pod/b"])


def test_labels() -> None:
    assert parse_labels("a=b,c=") == {"a": "b", "c": ""}
    assert parse_label_changes(["a=b", "old-"]) == {"a": "b", "old": None}
    for wrong in (["a"], ["a=b", "a-"], ["-=x"], ["a=b c"]):
        with pytest.raises(InvalidInput):
            parse_label_changes(wrong)


def test_kinds_are_found_by_every_spelling() -> None:
    assert {kind_named(word).kind for word in ("po", "pod", "pods", "POD", "Pod")} == {"Pod"}
    assert kind_of({"apiVersion": "v1", "kind": "Pod"}) == kind_named("po")
    assert kind_of({"apiVersion": "v2", "kind": "Pod"}) is None
    spellings = [spelling for kind in KINDS for spelling in kind.spellings()]
    assert len(spellings) == len(set(spellings))


WISHES: list[tuple[str, dict[str, Any] | None, bool]] = [
    ("delete", None, True),
    ("delete", {}, False),
    ("create", {}, True),
    ("condition=Ready", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}, True),
    ("condition=ready=false", {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}, True),
    ("condition=Ready", {"status": {}}, False),
    ("condition=Ready", None, False),
    ("jsonpath={.status.phase}=Running", {"status": {"phase": "Running"}}, True),
    ("jsonpath='{.status.phase}'=Running", {"status": {"phase": "Pending"}}, False),
    ("jsonpath={.status.podIP}", {"status": {"podIP": "10.0.0.1"}}, True),
    ("jsonpath={.status.podIP}", {"status": {}}, False),
    ("jsonpath=.status.phase=Running", {"status": {"phase": "Running"}}, True),
]


@pytest.mark.parametrize(("text", "document", "holds"), WISHES)
def test_wishes(text: str, document: dict[str, Any] | None, holds: bool) -> None:
    assert parse_wish(text.replace("'", "")).holds(document) is holds


@pytest.mark.parametrize("text", ["", "condition", "condition=", "jsonpath=", "jsonpath={.a", "delete=now"])
def test_wrong_wishes_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_wish(text)


def test_colours_go_by_the_first_word() -> None:
    assert style_of("Ready,SchedulingDisabled") == "green"
    assert style_of("Running (stand-in)") == "green"
    assert style_of("FAIL (timeout)") == style_of("CrashLoopBackOff") == "red"
    assert style_of("10.244.1.2") == ""
