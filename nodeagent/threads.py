"""Where blocking kernel calls run: one thread per lane, each call whole and in order.

In: a call. Out: its result, awaited. Two lanes are what the kernel can use: it holds one lock over all link changes, but namespaces
are made outside it. `Inline` is the simulator's: the same interface, no threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Lanes:
    """A wiring thread and a making thread."""

    def __init__(self) -> None:
        self._wiring = ThreadPoolExecutor(1, thread_name_prefix="wiring")
        self._making = ThreadPoolExecutor(1, thread_name_prefix="making")

    async def wiring(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._wiring, partial(call, *args, **kwargs))

    async def making(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._making, partial(call, *args, **kwargs))

    def close(self) -> None:
        """Waits for the calls under way and ends the threads."""
        self._wiring.shutdown()
        self._making.shutdown()


class Inline:
    """Calls at once, on the caller's thread."""

    async def wiring(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return call(*args, **kwargs)

    async def making(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return call(*args, **kwargs)
