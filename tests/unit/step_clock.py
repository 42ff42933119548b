"""A clock that stands until a test moves it, and a way to wait for a condition without sleeping."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable

TURNS = 20_000  # of the event loop: far more than anything here takes


class StepClock:
    """Time is what the test says. Sleepers wake in order as it passes them."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1_700_000_000.0 + self.now

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self.now + seconds, next(self._order), future))
        await future

    async def advance(self, seconds: float) -> None:
        """Moves on, letting everything that becomes due run before time goes further."""
        end = self.now + seconds
        await settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            at, _, future = heapq.heappop(self._sleepers)
            self.now = max(self.now, at)
            if not future.done():
                future.set_result(None)
            await settle()
        self.now = end
        await settle()


async def turn() -> None:
    """Lets every task that is ready run once."""
    future = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(future.set_result, None)
    await future


async def settle(turns: int = 60) -> None:
    """Lets chains of tasks run on."""
    for _ in range(turns):
        await turn()


async def until(condition: Callable[[], bool], what: str) -> None:
    """Waits for a condition, or fails naming what was waited for."""
    for _ in range(TURNS):
        if condition():
            return
        await turn()
    raise AssertionError(f"never came: {what}")
