"""Watches against lists: whatever happens, replaying the events gives what a list gives, for every selector."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.objects.registry import Registry
from controller.store.memory import MemoryStore
from podwire.errors import PodwireError
from podwire.seams import SeededRng
from tests.unit.objects_world import StoppedClock, namespace, pod

Step = tuple[str, str, str]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "label", "annotate", "delete", "force", "apply", "drain"]),
        st.sampled_from(["one/a", "one/b", "two/a"]),
        st.sampled_from(["x", "y"]),
    ),
    max_size=25,
)


async def take(registry: Registry, step: Step) -> None:
    verb, who, value = step
    space, name = who.split("/")
    doc = pod(name, namespace=space, labels={"l": value}, node="n" if value == "x" else "")
    match verb:
        case "create":
            await registry.create(doc)
        case "label":
            await registry.patch("pods", space, name, {"metadata": {"labels": {"l": value}}})
        case "annotate":
            await registry.patch("pods", space, name, {"metadata": {"annotations": {"note": value}}})
        case "delete":
            await registry.delete("pods", space, name)
        case "force":
            await registry.delete("pods", space, name, grace_s=0)
        case "apply":
            await registry.apply([doc])
        case _:
            await registry.delete("namespaces", "", space)


async def replay(registry: Registry, where: str | None, labels: str, fields: str) -> dict[str, Any]:
    """The state that a watcher from the beginning has when it has been told all."""
    state: dict[str, Any] = {}
    newest, last = await registry.store.revision(), 0
    async for event in registry.watch("pods", where, labels, fields, after=0):
        assert event.revision >= last
        last = event.revision
        if event.type == "BOOKMARK":
            assert event.revision == newest
            return state
        uid = event.doc["metadata"]["uid"]
        assert (event.type == "ADDED") == (uid not in state)
        if event.type == "DELETED":
            del state[uid]
        else:
            state[uid] = event.doc
    raise AssertionError("the watch ended")


@given(STEPS)
@settings(max_examples=80, deadline=None)
def test_events_replay_to_the_list(steps: list[Step]) -> None:
    async def run() -> None:
        registry = Registry(MemoryStore(SeededRng(1)), StoppedClock(), SeededRng(2))
        await registry.create_many([namespace("one"), namespace("two")])
        for step in steps:
            with suppress(PodwireError):
                await take(registry, step)
        for where in (None, "one"):
            for labels, fields in (("", ""), ("l=x", ""), ("l!=x", ""), ("l", "spec.nodeName=n")):
                docs, _ = await registry.list("pods", where, labels, fields)
                state = await replay(registry, where, labels, fields)
                assert sorted(state) == sorted(doc["metadata"]["uid"] for doc in docs)
                assert all(state[doc["metadata"]["uid"]] == doc for doc in docs)
        await registry.collect()  # what the controller's loop does after each change
        assert await registry.collect() == 0

    asyncio.run(run())
