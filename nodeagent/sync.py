"""The stream with the controller: desired state in, acknowledgements and reports out.

In: messages from a `SyncTransport`; from the agent, what has been applied and which pods changed. Out: a new `Desired` (made durable
before anyone acts on it), then a call of `on_desired`. A stream that breaks, goes silent or does not follow is closed and opened anew
after a jittered pause; the node goes on with what it has. Reports are coalesced: a pod that changed ten times since the last
message is reported once, as it is now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from nodeagent.config import SILENCE_FACTOR
from nodeagent.desired import Assembler, Desired
from nodeagent.journal import Journal
from nodeagent.transport import Connector, SyncTransport
from podwire.api.v1 import node_sync_pb2 as sync
from podwire.api.v1 import state_pb2 as state
from podwire.errors import Conflict, Exhausted, PodwireError, Unavailable
from podwire.seams import Clock, Rng, failpoint
from podwire.telemetry import logger
from podwire.waiting import within

log = logger(__name__)

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
DEFAULT_HEARTBEAT_S = 10
GATHER_S = 0.01  # pods come and go in bursts: what changes within this time is one report


class Reporter(Protocol):
    """What the stream asks the agent for."""

    def hello(self) -> sync.Hello:
        """Who we are and everything we hold."""

    def report(self, uids: Iterable[str]) -> state.NodeReport:
        """The node and these pods as they are now."""


class Synchroniser:
    """Keeps one stream open for as long as it runs."""

    def __init__(
        self,
        *,
        connector: Connector,
        assembler: Assembler,
        journal: Journal,
        reporter: Reporter,
        clock: Clock,
        rng: Rng,
        on_desired: Callable[[Desired], None],
    ) -> None:
        self._connector = connector
        self._assembler = assembler
        self._journal = journal
        self._reporter = reporter
        self._clock = clock
        self._rng = rng
        self._on_desired = on_desired
        self._changed: set[str] = set()
        self._report_due = False
        self._ack: sync.Ack | None = None
        self._wake = asyncio.Event()
        self.connected = False
        self.last_heard = float("-inf")

    def note_changed(self, uids: Iterable[str]) -> None:
        """These pods (or, with none, the node itself) look different now: tell the controller soon."""
        self._changed.update(uids)
        self._report_due = True
        self._wake.set()

    def note_applied(self, epoch: int, revision: int, error: str) -> None:
        """The kernel agrees with this revision, or does not and here is why."""
        self._ack = sync.Ack(
            epoch=epoch, revision=revision, applied_unix_ms=int(self._clock.wall() * 1000), error=error
        )
        self._wake.set()

    async def run(self) -> None:
        """Opens streams until cancelled."""
        pause = FIRST_PAUSE_S
        while True:
            started = self._clock.monotonic()
            try:
                transport = await self._connector.connect()
                try:
                    await self._converse(transport)
                finally:
                    self.connected = False
                    await transport.close()
            except (Unavailable, Conflict) as error:
                log.info("stream_closed", reason=error.message)
            except PodwireError as error:
                log.warning("stream_failed", reason=error.message)
            lasted = self._clock.monotonic() - started
            pause = FIRST_PAUSE_S if lasted > LONGEST_PAUSE_S else min(pause * 2, LONGEST_PAUSE_S)
            await self._clock.sleep(pause * self._rng.uniform(0.5, 1.0))

    async def _converse(self, transport: SyncTransport) -> None:
        self._assembler.restart()
        self._changed.clear()
        self._report_due = False
        self._ack = None
        await transport.send(sync.SyncRequest(hello=self._reporter.hello()))
        receiver = asyncio.ensure_future(self._receive(transport))
        sender = asyncio.ensure_future(self._send(transport))
        try:
            await asyncio.wait((receiver, sender), return_when=asyncio.FIRST_COMPLETED)
        finally:
            receiver.cancel()
            sender.cancel()
            results = await asyncio.gather(receiver, sender, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result

    async def _receive(self, transport: SyncTransport) -> None:
        heartbeat_s = DEFAULT_HEARTBEAT_S
        while True:
            message = await within(
                self._clock, heartbeat_s * SILENCE_FACTOR, transport.receive(), "nothing was heard from the controller"
            )
            if message is None:
                return
            self.connected = True
            self.last_heard = self._clock.monotonic()
            if message.HasField("welcome"):
                heartbeat_s = message.welcome.heartbeat_s or DEFAULT_HEARTBEAT_S
                self._assembler.welcome(message.welcome)
                continue
            before = self._assembler.desired
            records = self._assembler.feed(message)
            if records:
                try:
                    self._journal.append(records)
                except OSError as error:
                    self._assembler.desired = before
                    raise Exhausted(
                        f"the plan could not be made durable ({error.strerror}): free disk space below the state directory"
                    ) from error
                failpoint("sync.desired_durable")
            if self._assembler.desired is not before:
                self._on_desired(self._assembler.desired)

    async def _send(self, transport: SyncTransport) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._ack is None:
                await self._clock.sleep(GATHER_S)
            if self._report_due:
                uids, self._changed = self._changed, set()
                self._report_due = False
                await transport.send(sync.SyncRequest(report=self._reporter.report(uids)))
            if self._ack is not None:
                ack, self._ack = self._ack, None
                await transport.send(sync.SyncRequest(ack=ack))
