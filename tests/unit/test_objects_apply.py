"""kubectl's apply over the registry."""

from __future__ import annotations

import json
from typing import Any

import pytest

from controller.objects.registry import Registry
from controller.objects.semantics import LAST_APPLIED
from controller.store.memory import MemoryStore
from podwire.errors import InvalidInput, NotFound
from podwire.seams import SeededRng
from tests.unit.objects_world import StoppedClock, namespace, node, pod


@pytest.fixture
async def registry() -> Registry:
    made = Registry(MemoryStore(SeededRng(1)), StoppedClock(), SeededRng(2))
    await made.create(namespace("default"))
    return made


async def outcomes(registry: Registry, *docs: Any, **options: Any) -> list[str]:
    return [outcome for _, outcome in await registry.apply(docs, **options)]


async def test_created_then_unchanged_then_configured(registry: Registry) -> None:
    assert await outcomes(registry, pod("a"), node("n")) == ["created", "created"]
    before = await registry.store.revision()
    assert await outcomes(registry, pod("a"), node("n")) == ["unchanged", "unchanged"]
    assert await registry.store.revision() == before
    assert await outcomes(registry, pod("a", labels={"x": "y"}), node("n")) == ["configured", "unchanged"]
    assert (await registry.get("nodes", "", "n"))["metadata"]["resourceVersion"] == str(before)


async def test_the_annotation_is_kubectls(registry: Registry) -> None:
    ((doc, _),) = await registry.apply([pod("a", annotations={"z": "1"}, labels={"b": "2", "a": "1"})])
    text = doc["metadata"]["annotations"][LAST_APPLIED]
    assert (
        text
        == json.dumps(
            pod("a", annotations={"z": "1"}, labels={"b": "2", "a": "1"}), sort_keys=True, separators=(",", ":")
        )
        + "\n"
    )


async def test_a_field_taken_out_of_the_file_goes_and_what_others_set_stays(registry: Registry) -> None:
    await registry.apply([pod("a", labels={"ours": "1", "stays": "1"})])
    await registry.patch(
        "pods", "default", "a", {"metadata": {"labels": {"theirs": "1"}, "annotations": {"note": "x"}}}
    )
    await registry.update_status(pod("a") | {"status": {"phase": "Running"}})
    ((doc, _),) = await registry.apply([pod("a", labels={"stays": "1"})])
    assert doc["metadata"]["labels"] == {"stays": "1", "theirs": "1"}
    assert doc["metadata"]["annotations"]["note"] == "x"
    assert doc["status"] == {"phase": "Running"}


async def test_an_object_that_was_created_otherwise_can_be_applied_to(registry: Registry) -> None:
    await registry.create(pod("a", labels={"made": "by-hand"}))
    ((doc, outcome),) = await registry.apply([pod("a", labels={"x": "y"})])
    assert outcome == "configured"
    assert doc["metadata"]["labels"] == {"made": "by-hand", "x": "y"}
    assert await outcomes(registry, pod("a", labels={"x": "y"})) == ["unchanged"]


async def test_a_namespace_and_what_is_in_it_come_together(registry: Registry) -> None:
    assert await outcomes(registry, namespace("new"), pod("a", namespace="new")) == ["created", "created"]


async def test_nothing_is_half_applied(registry: Registry) -> None:
    before = await registry.store.revision()
    for bad, error in (
        (pod("Bad"), InvalidInput),
        (pod("b", namespace="nowhere"), NotFound),
        ({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}}, InvalidInput),
        ({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "x-"}}, InvalidInput),
        (pod("a"), InvalidInput),
        ("text", InvalidInput),
    ):
        with pytest.raises(error):
            await registry.apply([pod("a"), bad])  # type: ignore[list-item]
    assert await registry.store.revision() == before


async def test_errors_say_which_document(registry: Registry) -> None:
    with pytest.raises(InvalidInput, match=r"^Pod Bad: metadata.name: 'Bad'"):
        await registry.apply([pod("a"), pod("Bad")])
    with pytest.raises(InvalidInput, match=r"^document 2: "):
        await registry.apply([pod("a"), {}])
    with pytest.raises(InvalidInput, match="documents 1 and 3 are both pod default/a"):
        await registry.apply([pod("a"), pod("b"), pod("a", namespace="default")])


async def test_a_dry_run_tells_what_would_happen(registry: Registry) -> None:
    await registry.apply([pod("a")])
    before = await registry.store.revision()
    assert await outcomes(registry, pod("a", labels={"x": "y"}), pod("b"), dry_run=True) == ["configured", "created"]
    assert await registry.store.revision() == before


async def test_lists_are_taken_apart(registry: Registry) -> None:
    bundle = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [pod("a"), {"apiVersion": "v1", "kind": "PodList", "items": [pod("b")]}],
    }
    assert await outcomes(registry, bundle, node("n")) == ["created", "created", "created"]


async def test_an_unreadable_annotation_is_named(registry: Registry) -> None:
    await registry.create(pod("a", annotations={LAST_APPLIED: "{not json"}))
    with pytest.raises(InvalidInput, match=r"Pod a: .*last-applied-configuration is not a JSON document") as caught:
        await registry.apply([pod("a")])
    assert caught.value.hint


async def test_what_get_printed_can_be_applied_to_the_same_object_only(registry: Registry) -> None:
    ((doc, _),) = await registry.apply([pod("a")])
    assert await outcomes(registry, doc) == ["configured"]  # it says more than the file did, so that is remembered
    doc["metadata"].pop("resourceVersion")
    assert await outcomes(registry, doc) == ["configured"]
    assert await outcomes(registry, doc) == ["unchanged"]
