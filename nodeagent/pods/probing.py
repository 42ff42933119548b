"""What probes mean for a container: started, ready, or to be restarted.

In: a running container and something that asks it. Out: `started` and `ready` of its `Tracked`, and the news of it to whoever keeps
the container. As in a kubelet, the startup probe comes first and holds the others back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from nodeagent.pods.pod import Container, ProbeSpec
from nodeagent.pods.podreport import Tracked
from nodeagent.pods.probes import Result, watch
from podwire.seams import Clock


class Keeper(Protocol):
    """Who keeps the container."""

    def changed(self) -> None:
        """The report would differ from now on."""

    def probe_failed(self, one: Tracked, name: str, result: Result, *, fatal: bool) -> None:
        """A probe failed once; when `fatal`, often enough to restart the container."""


def is_probed(spec: Container) -> bool:
    """Whether the container has any probe."""
    return any((spec.startup, spec.liveness, spec.readiness))


async def keep_probing(
    one: Tracked, ask: Callable[[ProbeSpec], Awaitable[Result]], clock: Clock, keeper: Keeper, *, adopted: bool
) -> None:
    """Probes until cancelled. An adopted container has had its initial delay."""

    async def observe(spec: ProbeSpec, verdict: Callable[[bool, Result], None], *, initially: bool) -> None:
        delay_s = 0.0 if adopted else spec.initial_delay_s
        await watch(spec, lambda: ask(spec), verdict, clock, initially=initially, delay_s=delay_s)

    def on_liveness(reached: bool, result: Result) -> None:
        if not result.ok:
            keeper.probe_failed(one, "liveness", result, fatal=reached)

    def on_readiness(reached: bool, result: Result) -> None:
        if not result.ok:
            keeper.probe_failed(one, "readiness", result, fatal=False)
        if reached and one.ready != result.ok:
            one.ready = result.ok
            keeper.changed()

    spec = one.spec
    if spec.startup is not None and not one.started:
        await _startup(one, spec.startup, observe, keeper)
    async with asyncio.TaskGroup() as group:
        if spec.liveness is not None:
            group.create_task(observe(spec.liveness, on_liveness, initially=True))
        if spec.readiness is not None:
            group.create_task(observe(spec.readiness, on_readiness, initially=one.ready))


async def _startup(one: Tracked, spec: ProbeSpec, observe: Callable[..., Awaitable[None]], keeper: Keeper) -> None:
    """Returns when the container has started."""
    started = asyncio.Event()

    def verdict(reached: bool, result: Result) -> None:
        if not result.ok:
            keeper.probe_failed(one, "startup", result, fatal=reached)
        elif reached:
            started.set()

    task = asyncio.ensure_future(observe(spec, verdict, initially=False))
    try:
        await started.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    one.started = True
    one.ready = one.spec.readiness is None
    keeper.changed()
