"""The one place that acts: operations → kernel calls.

In: operations in `diff`'s order. Out: an `Applied` that says what was made, what failed and why, per pod, and a call of `on_wired` for
each pod the moment its network is up. One pod's failure leaves the others alone; nothing is retried here, because the next reading
decides anew. Sandboxes are made on one thread while the batch before is wired on another and the containers of the one before that
start, which is what keeps both cores of a small machine at work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import ParamSpec, Protocol, TypeVar, assert_never

from nodeagent.kernel.base import Failure, Kernel, Sandbox, Sandboxes
from nodeagent.operations import (
    AdoptSandbox,
    DeleteLinks,
    DeletePeers,
    DropSandbox,
    EnsureNode,
    EnsurePeers,
    FencePod,
    MakeSandbox,
    Operation,
    ResetGuard,
    WirePod,
)
from podwire.errors import KernelError
from podwire.seams import failpoint

P = ParamSpec("P")
T = TypeVar("T")

BATCH = 16  # sandboxes per round: enough to spread a transaction's cost, few enough that all lanes are soon at work


class Threads(Protocol):
    """Where blocking kernel calls run. The real one has a thread per lane; the simulator calls inline."""

    async def wiring(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs on the wiring lane: netlink and nftables, one call at a time."""

    async def making(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs on the making lane: sandboxes, one call at a time."""


@dataclass(slots=True)
class Applied:
    """What came of the operations."""

    made: dict[str, Sandbox] = field(default_factory=dict)  # by UID
    wired: set[str] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)  # slots
    pod_errors: dict[str, KernelError] = field(default_factory=dict)
    errors: list[KernelError] = field(default_factory=list)  # of the node itself
    changes: list[str] = field(default_factory=list)  # what had to be changed, as sentences

    @property
    def failed(self) -> bool:
        """Whether anything is still to be done."""
        return bool(self.pod_errors or self.errors)


class Applier:
    """Runs operations against one node's kernel."""

    def __init__(
        self, kernel: Kernel, sandboxes: Sandboxes, threads: Threads, on_wired: Callable[[str, Sandbox], None]
    ) -> None:
        self._kernel = kernel
        self._sandboxes = sandboxes
        self._threads = threads
        self._on_wired = on_wired

    async def apply(self, operations: Sequence[Operation]) -> Applied:
        """Carries the operations out in order; operations of one kind that stand together go as one batch."""
        applied = Applied()
        pods: list[MakeSandbox | AdoptSandbox | WirePod] = []
        for kind, group in groupby(operations, key=_batch_of):
            batch = list(group)
            failpoint(f"apply.{kind}")
            try:
                if kind == "pods":
                    pods = [op for op in batch if isinstance(op, MakeSandbox | AdoptSandbox | WirePod)]
                    await self._bring_up(pods, applied)
                else:
                    for_kernel = [op for op in batch if not isinstance(op, MakeSandbox | AdoptSandbox | WirePod)]
                    await self._run(for_kernel, applied)
            except KernelError as error:
                applied.errors.append(error)
        return applied

    async def _run(
        self,
        batch: Sequence[EnsureNode | EnsurePeers | ResetGuard | FencePod | DropSandbox | DeleteLinks | DeletePeers],
        applied: Applied,
    ) -> None:
        wiring = self._threads.wiring
        fences = [op.name for op in batch if isinstance(op, FencePod)]
        if fences:
            _note(applied, await wiring(self._kernel.unwire, fences))
        drops = [op.sandbox for op in batch if isinstance(op, DropSandbox)]
        if drops:
            results = await self._threads.making(self._sandboxes.delete, drops)
            _note(applied, results)
            applied.dropped |= {sandbox.slot for sandbox, result in zip(drops, results, strict=True) if result is None}
        for op in batch:
            match op:
                case EnsureNode():
                    applied.changes += await wiring(self._kernel.ensure_node, op.network)
                case EnsurePeers():
                    _note(applied, await wiring(self._kernel.ensure_peers, op.network, op.peers))
                    applied.changes += [f"peer {peer.node}" for peer in op.peers]
                case ResetGuard():
                    await wiring(self._kernel.reset_guard, op.network, op.links)
                    applied.changes.append("guard sets")
                case DeleteLinks():
                    _note(applied, await wiring(self._kernel.delete_links, op.names))
                    applied.changes += [f"link {name} removed" for name in op.names]
                case DeletePeers():
                    _note(applied, await wiring(self._kernel.delete_peers, op.peers))
                    applied.changes += [f"peer {peer.vtep_mac} removed" for peer in op.peers]
                case FencePod() | DropSandbox():
                    pass  # went as a batch above
                case _:
                    assert_never(op)

    async def _bring_up(self, batch: Sequence[MakeSandbox | AdoptSandbox | WirePod], applied: Applied) -> None:
        adopts = [op for op in batch if isinstance(op, AdoptSandbox)]
        for op in adopts:
            try:
                await self._threads.making(self._sandboxes.adopt, op.sandbox, op.hostname)
            except KernelError as error:
                applied.pod_errors[op.uid] = error
        wires = {op.link.uid: op for op in batch if isinstance(op, WirePod)}
        ready = [
            (op, op.sandbox)
            for op in wires.values()
            if op.sandbox is not None and op.link.uid not in applied.pod_errors
        ]
        makes = [op for op in batch if isinstance(op, MakeSandbox)]
        async with asyncio.TaskGroup() as group:
            wiring = group.create_task(self._wire(ready, applied)) if ready else None
            for start in range(0, len(makes), BATCH):
                some = makes[start : start + BATCH]
                made = await self._make(some, applied)
                if wiring is not None:
                    await wiring
                wiring = group.create_task(
                    self._wire([(wires[uid], sandbox) for uid, sandbox in made.items() if uid in wires], applied)
                )

    async def _make(self, makes: Sequence[MakeSandbox], applied: Applied) -> dict[str, Sandbox]:
        results = await self._threads.making(self._sandboxes.create, [(op.slot, op.hostname) for op in makes])
        failpoint("apply.sandboxes_made")
        made: dict[str, Sandbox] = {}
        for op, result in zip(makes, results, strict=True):
            if isinstance(result, Failure):
                applied.pod_errors[op.uid] = result.error
            else:
                made[op.uid] = result
        applied.made |= made
        return made

    async def _wire(self, ready: Sequence[tuple[WirePod, Sandbox]], applied: Applied) -> None:
        if not ready:
            return
        results = await self._threads.wiring(
            self._kernel.wire, [op.link for op, _ in ready], [sandbox for _, sandbox in ready]
        )
        failpoint("apply.pods_wired")
        for (op, sandbox), result in zip(ready, results, strict=True):
            if result is None:
                applied.wired.add(op.link.uid)
                self._on_wired(op.link.uid, sandbox)
            else:
                applied.pod_errors[op.link.uid] = result.error


def _batch_of(operation: Operation) -> str:
    """Names the batch an operation goes in: what brings pods up runs as one pipeline, and so does what takes them down."""
    match operation:
        case MakeSandbox() | AdoptSandbox() | WirePod():
            return "pods"
        case FencePod() | DropSandbox():
            return "removals"
        case _:
            return type(operation).__name__


def _note(applied: Applied, results: Sequence[Failure | None]) -> None:
    applied.errors += [result.error for result in results if result is not None]
