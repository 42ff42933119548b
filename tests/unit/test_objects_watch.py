"""Watching objects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from controller.objects.registry import Registry
from controller.objects.watching import WatchEvent
from controller.store.memory import MemoryStore
from podwire.errors import Expired, InvalidInput
from podwire.seams import SeededRng
from tests.unit.objects_world import StoppedClock, namespace, node, pod


@pytest.fixture
async def registry() -> Registry:
    made = Registry(MemoryStore(SeededRng(1), history=50), StoppedClock(), SeededRng(2))
    for name in ("default", "shop"):
        await made.create(namespace(name))
    return made


async def told(events: AsyncIterator[WatchEvent], count: int) -> list[tuple[str, str]]:
    """(type, name) of the next events that are no bookmarks; every document carries its event's revision."""
    found: list[tuple[str, str]] = []
    async with asyncio.timeout(5):
        while len(found) < count:
            event = await anext(events)
            if event.type != "BOOKMARK":
                assert event.doc["metadata"]["resourceVersion"] == str(event.revision)
                found.append((event.type, event.doc["metadata"]["name"]))
    return found


async def test_a_life_is_added_modified_deleted(registry: Registry) -> None:
    events = registry.watch("pods", after=await registry.store.revision())
    await registry.create(pod("a", node="n1"))
    await registry.delete("pods", "default", "a")
    await registry.delete("pods", "default", "a", grace_s=0)
    assert await told(events, 3) == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a")]


async def test_selectors_turn_transitions_into_added_and_deleted(registry: Registry) -> None:
    events = registry.watch("pods", None, "app=web", "spec.nodeName=n1", after=await registry.store.revision())
    await registry.create(pod("a", node="n1"))
    await registry.create(pod("b", node="n2", labels={"app": "web"}))
    await registry.patch("pods", "default", "a", {"metadata": {"labels": {"app": "web"}}})
    await registry.patch("pods", "default", "a", {"metadata": {"labels": {"more": "1"}}})
    await registry.patch("pods", "default", "a", {"metadata": {"labels": {"app": "api"}}})
    await registry.patch("pods", "default", "b", {"metadata": {"labels": {"more": "1"}}})
    await registry.create(pod("c", node="n1", labels={"app": "web"}))
    await registry.delete("pods", "default", "c", grace_s=0)
    assert await told(events, 5) == [
        ("ADDED", "a"),
        ("MODIFIED", "a"),
        ("DELETED", "a"),
        ("ADDED", "c"),
        ("DELETED", "c"),
    ]


async def test_a_deleted_object_is_told_as_it_was_last(registry: Registry) -> None:
    await registry.create(pod("a", labels={"x": "1"}))
    events = registry.watch("pods", None, "x=1", after=await registry.store.revision())
    await registry.patch("pods", "default", "a", {"metadata": {"labels": {"x": "2"}}})
    event = await anext(events)
    assert event.type == "DELETED"
    assert event.doc["metadata"]["labels"] == {"x": "1"}
    assert event.revision == await registry.store.revision()


async def test_a_namespace_narrows_one_resource_and_all_of_them(registry: Registry) -> None:
    after = await registry.store.revision()
    of_pods, of_all = registry.watch("pods", "shop", after=after), registry.watch(None, "shop", after=after)
    everything = registry.watch(None, after=after)
    await registry.create_many([pod("here"), node("n"), pod("there", namespace="shop")])
    assert await told(of_pods, 1) == await told(of_all, 1) == [("ADDED", "there")]
    assert await told(everything, 3) == [("ADDED", "here"), ("ADDED", "n"), ("ADDED", "there")]


async def test_a_bookmark_says_that_all_is_told(registry: Registry) -> None:
    revision = await registry.store.revision()
    assert await anext(registry.watch("pods", after=revision)) == WatchEvent("BOOKMARK", {}, revision)


async def test_list_then_watch_misses_nothing(registry: Registry) -> None:
    await registry.create(pod("a"))
    docs, revision = await registry.list("pods")
    await registry.create(pod("b"))
    assert [doc["metadata"]["name"] for doc in docs] == ["a"]
    assert await told(registry.watch("pods", after=revision), 1) == [("ADDED", "b")]


async def test_too_long_ago_has_expired(registry: Registry) -> None:
    for n in range(200):
        await registry.create(pod(f"p{n}"))
    with pytest.raises(Expired):
        await anext(registry.watch("pods", after=1))


async def test_a_bad_selector_is_refused(registry: Registry) -> None:
    with pytest.raises(InvalidInput):
        await anext(registry.watch("pods", None, "a=b=c", after=0))
