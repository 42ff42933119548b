"""Pods that must go: containers first, network after, and only then is it said that nothing is left.

In: who must go, with how much grace. Out: who has no container any more (`leaving`: fence and drop the sandbox), and who is gone. A stop
that is under way when the agent dies is started again by the next one; stopping what has stopped is free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from podwire.seams import Clock

GONE_KEPT_S = 60.0  # how long reports repeat that a pod is gone: a report may be lost with its stream


class Departures:
    """Tracks pods from the order to go until nothing is left."""

    def __init__(
        self, stop: Callable[[str, float], Awaitable[None]], clock: Clock, on_stopped: Callable[[], None]
    ) -> None:
        self._stop = stop
        self._clock = clock
        self._on_stopped = on_stopped
        self._stopping: dict[str, asyncio.Task[None]] = {}
        self._leaving: set[str] = set()
        self._gone: dict[str, float] = {}

    @property
    def leaving(self) -> frozenset[str]:
        """Pods whose containers are gone and whose network is not, yet."""
        return frozenset(self._leaving)

    def has_left(self, uid: str) -> bool:
        """Whether a pod has no container any more."""
        return uid in self._leaving or uid in self._gone

    @property
    def gone(self) -> frozenset[str]:
        """Pods of which nothing is left, and that may still be waited for."""
        return frozenset(self._gone)

    def order(self, graces: Mapping[str, float]) -> None:
        """These pods, and no others, must go, each with its grace in seconds. Whoever is no longer named is forgotten."""
        now = self._clock.monotonic()
        self._gone = {uid: since for uid, since in self._gone.items() if uid in graces or now - since < GONE_KEPT_S}
        self._leaving &= graces.keys()
        for uid in sorted(graces.keys() - self._gone.keys() - self._leaving - self._stopping.keys()):
            self._stopping[uid] = asyncio.ensure_future(self._run(uid, graces[uid]))

    async def _run(self, uid: str, grace_s: float) -> None:
        try:
            await self._stop(uid, grace_s)
            self._leaving.add(uid)
        finally:
            self._stopping.pop(uid, None)
            self._on_stopped()

    def finish(self, held: Iterable[str]) -> frozenset[str]:
        """Those that left and hold nothing any more: from now on they are gone."""
        done = frozenset(self._leaving.difference(held))
        self._leaving -= done
        self._gone |= dict.fromkeys(done, self._clock.monotonic())
        return done

    async def close(self) -> None:
        """Lets go of the stops under way."""
        tasks = list(self._stopping.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
