"""What a simulated node stands on: time, files and containers, in memory.

In: nothing but the event loop's virtual time. Out: the seams that `world.py` passes to real agents and controllers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from nodeagent.kernel.base import Sandbox
from podwire.api.v1 import state_pb2 as state


class LoopClock:
    """Time as the event loop has it: virtual."""

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        return 1_800_000_000 + asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        # The loop counts microseconds: a shorter sleep would end at the moment it began, for ever.
        await asyncio.sleep(max(seconds, 2e-6))  # noqa: TID251 - the one adapter of virtual time


class MemoryDisk:
    """Files that survive an agent, and go with their node."""

    def __init__(self) -> None:
        self.files: dict[Path, bytes] = {}

    def read(self, path: Path) -> bytes | None:
        return self.files.get(path)

    def replace(self, path: Path, content: bytes) -> None:
        self.files[path] = content

    def append(self, path: Path, content: bytes) -> None:
        self.files[path] = self.files.get(path, b"") + content

    def remove(self, path: Path) -> None:
        self.files.pop(path, None)

    def names(self, directory: Path) -> list[str]:
        return sorted(path.name for path in self.files if path.parent == directory)


class FakeLives:
    """Containers that run at once and stop at once; what runs survives the agent and goes with the node."""

    def __init__(self, running: dict[str, Sandbox], changed: Callable[[str], None], clock: LoopClock) -> None:
        self._running = running
        self._changed = changed
        self._clock = clock

    def ensure(self, pod: state.PodState, sandbox: Sandbox) -> None:
        if self._running.get(pod.uid) != sandbox:
            self._running[pod.uid] = sandbox
            self._changed(pod.uid)

    async def stop(self, uid: str, grace_s: float) -> None:
        if uid in self._running:
            await self._clock.sleep(min(grace_s, 0.5))
        self._running.pop(uid, None)

    def forget(self, uid: str) -> None:
        self._running.pop(uid, None)

    def known(self) -> frozenset[str]:
        return frozenset(self._running)

    def report(self, uid: str) -> state.PodReport | None:
        if uid not in self._running:
            return None
        container = state.ContainerReport(name="c", phase=state.CONTAINER_PHASE_RUNNING, ready=True, started=True)
        return state.PodReport(uid=uid, phase=state.POD_PHASE_RUNNING, containers=[container])
