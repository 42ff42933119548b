"""Waiting with a limit, by the clock that was passed in (asyncio's own timeouts read the loop's)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from podwire.errors import Unavailable
from podwire.seams import Clock

T = TypeVar("T")


async def within(clock: Clock, seconds: float, what: Coroutine[Any, Any, T], silence: str = "nothing came") -> T:
    """The result, if it comes in time; raises Unavailable, which says what was missed, when it does not."""
    task, limit = asyncio.ensure_future(what), asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait((task, limit), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Unavailable(f"{silence} within {seconds:.0f} s")
        return task.result()
    finally:
        for each in (task, limit):
            each.cancel()
        await asyncio.gather(task, limit, return_exceptions=True)


async def event_within(clock: Clock, seconds: float, event: asyncio.Event) -> bool:
    """Whether the event is set in time."""
    if event.is_set():
        return True
    task, limit = asyncio.ensure_future(event.wait()), asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait((task, limit), return_when=asyncio.FIRST_COMPLETED)
        return event.is_set()
    finally:
        for each in (task, limit):
            each.cancel()
        await asyncio.gather(task, limit, return_exceptions=True)
