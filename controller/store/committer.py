"""Group commit: many concurrent transactions, one sync of the disk.

In: `transact` calls from any number of tasks. Out: each gets its own revision or its own error, once what it wrote is durable.
A committer task takes everything that waits, stages it on the ledger in order, lets a thread write it through a `Backing` in one
durable step, publishes, and answers; what arrives meanwhile is the next group. The event loop never waits for the disk.

A full disk: new keys are refused, the reserve file is given up so that replacing and removing go on; as soon as the reserve can be
taken again, new keys are welcome. Any other error of the disk is fatal: after a failed fsync nobody knows what is stored, and trying again
would report success for lost writes (PostgreSQL's fsyncgate), so `on_fatal` ends the process and the next one reads what is there.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NoReturn, Protocol, TypeVar

from controller.store.base import Precondition, Write
from controller.store.ledger import HISTORY, Image, Ledger, Staged
from controller.store.reads import LedgerReads
from podwire.errors import Exhausted, PodwireError, Unavailable
from podwire.seams import failpoint

T = TypeVar("T")
GROUP_LIMIT = 512  # transactions per durable step, so that the first of them does not wait for the last of thousands


class DiskFull(Exception):
    """Nothing of the group was written, for want of space."""


class Backing(Protocol):
    """What is durable. Called from one thread only."""

    def load(self) -> Image:
        """Opens, checks, raises the epoch durably."""

    def write(self, staged: Sequence[Staged]) -> None:
        """All of it or nothing, synced; raises DiskFull, or anything else when what is stored is not known."""

    def take_reserve(self) -> bool:
        """Sets space aside, if it is not yet; whether it now is. After it was given up, only where as much again is free."""

    def give_up_reserve(self) -> None:
        """Frees the space that was set aside."""

    def close(self) -> None:
        """Releases files."""


@dataclass(frozen=True, slots=True)
class _Request:
    preconditions: Sequence[Precondition]
    writes: Sequence[Write]
    at_least: int
    answer: asyncio.Future[int]


def exit_process(error: BaseException) -> NoReturn:
    """What a fatal error does by default: one line, and an end without any clean-up that could write. 74 is EX_IOERR."""
    sys.stderr.write(f"podwire-controller: the store cannot be trusted any more, exiting: {error}\n")
    sys.stderr.flush()
    os._exit(74)


class DurableStore(LedgerReads):
    """`base.Store` over a backing; made by `open`."""

    def __init__(self, backing: Backing, thread: ThreadPoolExecutor, image: Image, *, history: int) -> None:
        super().__init__(Ledger(image, history=history))
        self.store_id = image.store_id
        self.epoch = image.epoch
        self._backing = backing
        self._thread = thread
        self._waiting: list[_Request] = []
        self._work = asyncio.Event()
        self._failure: BaseException | None = None
        self._reserve_taken = False
        self._committer: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, backing: Backing, *, history: int = HISTORY, on_fatal: Callable[[BaseException], None] = exit_process
    ) -> DurableStore:
        """Loads the backing on its thread and starts the committer; raises what `Backing.load` does."""
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        try:
            image = await asyncio.get_running_loop().run_in_executor(thread, backing.load)
        except BaseException:
            thread.submit(backing.close)
            thread.shutdown(wait=False)
            raise
        store = cls(backing, thread, image, history=history)
        store._reserve_taken = await store._in_thread(backing.take_reserve)
        store._committer = asyncio.create_task(store._commit_forever(on_fatal), name="store-committer")
        return store

    @property
    def is_disk_full(self) -> bool:
        """Whether the reserve is in use: a degradation worth reporting."""
        return not self._reserve_taken

    async def transact(self, preconditions: Sequence[Precondition], writes: Sequence[Write]) -> int:
        return await self._submit(preconditions, writes)

    async def raise_revision(self, at_least: int) -> None:
        await self._submit((), (), at_least=at_least)

    async def _submit(
        self, preconditions: Sequence[Precondition], writes: Sequence[Write], *, at_least: int = 0
    ) -> int:
        if self._closed:
            raise Unavailable("the store is closed")
        if self._failure is not None:
            raise Unavailable(f"the store failed: {self._failure}", hint="restart the controller")
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request(preconditions, writes, at_least, answer))
        self._work.set()
        return await answer

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._announce()
        self._work.set()
        if self._committer is not None:
            await self._committer
        await self._in_thread(self._backing.close)
        self._thread.shutdown(wait=False)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _commit_forever(self, on_fatal: Callable[[BaseException], None]) -> None:
        group: list[_Request] = []
        try:
            while not self._closed or self._waiting:
                await self._work.wait()
                self._work.clear()
                while self._waiting:
                    group, self._waiting = self._waiting[:GROUP_LIMIT], self._waiting[GROUP_LIMIT:]
                    await self._commit(group)
        except BaseException as error:
            self._failure = error
            for request in (*group, *self._waiting):
                _answer(request, Unavailable(f"the store failed: {error}", hint="restart the controller"))
            if isinstance(error, asyncio.CancelledError):
                raise
            on_fatal(error)

    async def _commit(self, group: Sequence[_Request]) -> None:
        """One durable step; on a full disk a second one, without new keys, on the space that the reserve gave back."""
        if not self._reserve_taken:
            self._reserve_taken = await self._in_thread(self._backing.take_reserve)
        answers = await self._try(group, new_keys=self._reserve_taken)
        if answers is None and self._reserve_taken:
            await self._in_thread(self._backing.give_up_reserve)
            self._reserve_taken = False
            answers = await self._try(group, new_keys=False)
        if answers is None:
            full = Exhausted("the disk is full, and so is the space kept for removals", hint="free some space")
            answers = [full] * len(group)
        for request, answer in zip(group, answers, strict=True):
            _answer(request, answer)

    async def _try(self, group: Sequence[_Request], *, new_keys: bool) -> list[int | Exception] | None:
        """Stages, writes, publishes; answers per request, or None where the disk is full."""
        answers: list[int | Exception] = []
        staged: list[Staged] = []
        for request in group:
            try:
                if request.answer.cancelled():
                    raise Unavailable("the caller is gone")
                one = self._ledger.stage(
                    request.preconditions, request.writes, at_least=request.at_least, new_keys=new_keys
                )
                staged.append(one)
                answers.append(one.batch.revision)
            except (PodwireError, ValueError) as error:
                answers.append(error)
        failpoint("store.before_commit")
        if any(one.entries or one.batch.revision > self._ledger.revision for one in staged):
            try:
                await self._in_thread(lambda: self._backing.write(staged))
            except DiskFull:
                self._ledger.abandon()
                return None
        self._ledger.publish()
        failpoint("store.committed")
        self._announce()
        return answers


def _answer(request: _Request, answer: int | Exception) -> None:
    if request.answer.done():  # its caller was cancelled
        return
    if isinstance(answer, int):
        request.answer.set_result(answer)
    else:
        request.answer.set_exception(answer)
