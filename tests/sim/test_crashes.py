"""A crash at every effect: whatever the agent was about to do or had just done, the next one leaves nothing double and nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from podwire.seams import set_failpoint_handler
from tests.sim.world import World, simulate

AGENT_EFFECTS = ("journal.", "apply.", "agent.", "sync.", "spawner.", "wire.", "unwire.", "peers.", "links.", "node.")


class Crash(BaseException):
    """The process is gone: no handler of ordinary errors may catch it."""


class Effects:
    """Counts the agents' effects and ends the process at one of them; before it, or right after, as the failpoints stand."""

    def __init__(self, crash_at: int | None) -> None:
        self.seen: list[str] = []
        self._crash_at = crash_at

    def __call__(self, name: str) -> None:
        if not name.startswith(AGENT_EFFECTS):
            return
        self.seen.append(name)
        if len(self.seen) == self._crash_at:
            raise Crash(name)


@contextmanager
def crashing(at: int | None) -> Iterator[Effects]:
    effects = Effects(at)
    set_failpoint_handler(effects)
    try:
        yield effects
    finally:
        set_failpoint_handler(None)


async def come_and_go(world: World) -> int:
    """Two pods come, one goes, another comes; returns how often an agent had to be started anew."""
    await world.create("p0", node="a")
    await world.create("p1", node="b")
    await world.settle()
    world.check_addresses()
    await world.delete("p0")
    await world.create("p2", node="a")
    await world.settle()
    await world.check()
    return world.revived


def effects_of_a_run() -> list[str]:
    with crashing(None) as effects:
        assert simulate(11, come_and_go, nodes=2) == 0
    return effects.seen


EFFECTS = effects_of_a_run()


def test_every_step_of_a_pods_life_is_an_effect_with_a_name() -> None:
    """The list of effects holds what is made durable, made in the kernel, and removed."""
    assert {"agent.intent_durable", "sync.desired_durable", "spawner.create", "wire.guarded", "spawner.delete"} <= set(
        EFFECTS
    )


@pytest.mark.parametrize("at", range(1, len(EFFECTS) + 1))
def test_a_crash_at_an_effect_leaves_no_trace(at: int) -> None:
    """The agent dies there, once; the cluster settles as if nothing had happened."""
    with crashing(at):
        assert simulate(11, come_and_go, nodes=2) == 1
