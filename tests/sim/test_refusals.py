"""A kernel that refuses: one pod's trouble is its own, it is reported in words, and it heals without a new event."""

from __future__ import annotations

import errno

import pytest

from podwire.errors import KernelError
from tests.sim.world import World, ready, simulate


class Refusing:
    """Refuses a verb on objects whose name holds a word, until told otherwise."""

    def __init__(self, verb: str, word: str = "") -> None:
        self.verb = verb
        self.word = word
        self.asked = 0
        self.active = True

    def __call__(self, verb: str, obj: str) -> KernelError | None:
        if not self.active or verb != self.verb or self.word not in obj:
            return None
        self.asked += 1
        return KernelError(errno.ENOBUFS, verb, obj)


@pytest.mark.parametrize("verb", ["wire", "create"])
def test_a_refused_pod_is_reported_and_heals(verb: str) -> None:
    """The pod waits with the kernel's own words in its status; when the kernel gives in, it runs."""

    async def scenario(world: World) -> None:
        node = world.nodes["a"]
        refusing = Refusing(verb)
        await world.clock.sleep(1)  # the warm sandboxes are there by now
        node.kernel.refuse = refusing
        for number in range(4):
            await world.create(f"p{number}", node="a")
        await world.create("elsewhere", node="b")

        async def told() -> bool:
            pods = await world.pods()
            waiting = [
                pod
                for name, pod in pods.items()
                if name != "elsewhere" and "No buffer space" in pod["status"].get("message", "")
            ]
            return bool(waiting) and ready(pods["elsewhere"])

        await world.until(told, "the refusal is in a pod's status, and the other node is not held up")
        assert refusing.asked
        refusing.active = False
        await world.settle()
        await world.check()

    simulate(21, scenario)


def test_a_node_that_cannot_be_made_says_so_and_heals() -> None:
    async def scenario(world: World) -> None:
        node = world.nodes["a"]
        refusing = Refusing("observe")
        node.kernel.refuse = refusing
        await world.clock.sleep(20)
        assert node.agent is not None
        assert any("No buffer space" in error for error in node.agent.errors)
        asked = refusing.asked
        assert asked < 40, "a refusal is met with growing pauses, not with a storm"
        refusing.active = False
        await world.create("p", node="a")
        await world.settle()
        await world.check()

    simulate(22, scenario)
