"""Supervised loops and the work queue, in a time that moves only when somebody waits."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podwire.aio import Backoff, Supervisor, WorkQueue
from podwire.errors import Unavailable
from podwire.seams import SeededRng
from tests.unit.security import MovingClock, breathe

RNG = SeededRng(1)


@given(st.integers(1, 2000))
def test_pauses_grow_to_a_limit(failures: int) -> None:
    """Doubling, cut by up to half so that many do not retry in step."""
    full = min(30.0, 0.2 * 2.0 ** min(failures - 1, 60))
    assert full / 2 <= Backoff(0.2, 30.0).pause(failures, RNG) <= full


class TestSupervisor:
    async def test_a_failing_loop_is_started_again_with_growing_pauses(self) -> None:
        clock, runs, done = MovingClock(), 0, asyncio.Event()

        async def loop() -> None:
            nonlocal runs
            runs += 1
            if runs < 6:
                raise Unavailable("not yet") if runs % 2 else ValueError("a bug")
            done.set()

        async with Supervisor(clock=clock, rng=RNG, backoff=Backoff(1, 8)) as tasks:
            tasks.keep("loop", loop)
            await asyncio.wait_for(done.wait(), 5)
        assert [full / 2 <= slept <= full for slept, full in zip(clock.slept, (1, 2, 4, 8, 8), strict=True)] == [
            True
        ] * 5

    async def test_a_loop_that_ran_well_starts_over_with_the_first_pause(self) -> None:
        clock, runs, done = MovingClock(), 0, asyncio.Event()

        async def loop() -> None:
            nonlocal runs
            runs += 1
            if runs == 5:
                done.set()
                return
            clock.now += 120 if runs == 4 else 0
            raise Unavailable("again")

        async with Supervisor(clock=clock, rng=RNG, backoff=Backoff(1, 64)) as tasks:
            tasks.keep("loop", loop)
            await asyncio.wait_for(done.wait(), 5)
        assert clock.slept[2] >= 2
        assert clock.slept[3] <= 1

    async def test_leaving_ends_every_task(self) -> None:
        """Also those that start others while they end, and also when the block failed; its error comes out as it is."""
        ended: list[str] = []

        async def forever(name: str, tasks: Supervisor) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(name)
                if name == "first":
                    tasks.once("late", lambda: forever("late", tasks))
                    await breathe()

        async def block() -> None:
            async with Supervisor(clock=MovingClock(), rng=RNG) as tasks:
                tasks.keep("first", lambda: forever("first", tasks))
                tasks.keep("second", lambda: forever("second", tasks))
                await breathe()
                raise ValueError("why")

        with pytest.raises(ValueError, match="why"):
            await block()
        assert sorted(ended) == ["first", "late", "second"]

    async def test_one_failure_leaves_the_others_alone(self) -> None:
        done = asyncio.Event()

        async def fail() -> None:
            raise ValueError("why")

        async def work() -> None:
            done.set()

        async with Supervisor(clock=MovingClock(), rng=RNG) as tasks:
            await tasks.once("fail", fail)
            tasks.once("work", work)
            await asyncio.wait_for(done.wait(), 5)


class TestWorkQueue:
    async def test_a_key_is_handled_once_however_often_it_is_added(self) -> None:
        handled: list[str] = []
        enough = asyncio.Event()

        async def handle(key: str) -> None:
            handled.append(key)
            if key == "end":
                enough.set()

        queue = WorkQueue(handle, clock=MovingClock(), rng=RNG)
        for key in ("a", "b", "a", "a", "b", "end"):
            queue.add(key)
        async with Supervisor(clock=MovingClock(), rng=RNG) as tasks:
            tasks.keep("queue", queue.run)
            await asyncio.wait_for(enough.wait(), 5)
        assert handled == ["a", "b", "end"]

    async def test_a_key_added_while_it_is_handled_is_handled_again(self) -> None:
        """The handler may have read before the change."""
        handled = 0
        enough = asyncio.Event()

        async def handle(key: str) -> None:
            nonlocal handled
            handled += 1
            if handled == 1:
                for _ in range(3):
                    queue.add(key)
            else:
                enough.set()

        queue = WorkQueue(handle, clock=MovingClock(), rng=RNG)
        queue.add("a")
        async with Supervisor(clock=MovingClock(), rng=RNG) as tasks:
            tasks.keep("queue", queue.run)
            await asyncio.wait_for(enough.wait(), 5)
            for _ in range(10):
                await breathe()
        assert handled == 2

    async def test_a_failing_key_is_tried_again_and_holds_up_nobody(self) -> None:
        clock, order, enough = MovingClock(), list[str](), asyncio.Event()

        async def handle(key: str) -> None:
            order.append(key)
            if key == "bad" and order.count("bad") < 4:
                raise Unavailable("not yet") if order.count("bad") % 2 else KeyError("a bug")
            if key == "bad":
                enough.set()

        queue = WorkQueue(handle, clock=clock, rng=RNG, backoff=Backoff(1, 2))
        queue.add("bad")
        queue.add("good")
        async with Supervisor(clock=clock, rng=RNG) as tasks:
            tasks.keep("queue", queue.run)
            await asyncio.wait_for(enough.wait(), 5)
        assert order == ["bad", "good", "bad", "bad", "bad"]
        assert [full / 2 <= slept <= full for slept, full in zip(clock.slept, (1, 2, 2), strict=True)] == [True] * 3

    async def test_a_key_can_be_added_for_later(self) -> None:
        clock, enough = MovingClock(), asyncio.Event()

        async def handle(key: str) -> None:
            if key == "now":
                queue.add_after("later", 7.0)
            else:
                enough.set()

        queue = WorkQueue(handle, clock=clock, rng=RNG)
        queue.add("now")
        async with Supervisor(clock=clock, rng=RNG) as tasks:
            tasks.keep("queue", queue.run)
            await asyncio.wait_for(enough.wait(), 5)
        assert clock.slept == [7.0]

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 4), st.integers(0, 3))
    def test_any_order_of_adding(self, keys: list[int], workers: int, pauses: int) -> None:
        """Every key is handled after it was last added, never twice at the same time."""
        busy: set[int] = set()
        owed: set[int] = set()

        async def handle(key: int) -> None:
            assert key not in busy
            busy.add(key)
            owed.discard(key)
            for _ in range(pauses):
                await breathe()
            busy.remove(key)

        async def drive() -> None:
            queue = WorkQueue(handle, clock=MovingClock(), rng=RNG, workers=workers)
            async with Supervisor(clock=MovingClock(), rng=RNG) as tasks:
                tasks.keep("queue", queue.run)
                for key in keys:
                    owed.add(key)
                    queue.add(key)
                    await breathe()
                for _ in range(len(keys) * (pauses + 3) + 10):
                    await breathe()

        with asyncio.Runner() as runner:
            runner.run(drive())
        assert owed == busy == set()
