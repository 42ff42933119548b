"""The controller, put together: what `__main__` serves over gRPC and the simulator drives in one process.

In: a store, a clock, randomness and settings. Out: `registry` for the façades, `session` for agents' streams, `hub` for what is known of
agents. Nothing here listens on a socket.
"""

from __future__ import annotations

import asyncio

from controller.admission import ADMISSION
from controller.config import Settings
from controller.follow import Follower
from controller.objects.registry import Registry
from controller.reconcile import Reconciler
from controller.sessions import Hub, Session, Transport
from controller.snapshot import Snapshot
from controller.store.base import Store
from podwire.errors import PodwireError, Unavailable
from podwire.seams import Clock, Rng


class Controller:
    """See the module's docstring. `start` before anything else, `stop` at the end; the store stays the caller's."""

    def __init__(self, store: Store, clock: Clock, rng: Rng, settings: Settings) -> None:
        self.store = store
        self.clock = clock
        self.rng = rng
        self.settings = settings
        self.registry = Registry(store, clock, rng, ADMISSION)
        self.snapshot = Snapshot(settings.cluster, settings.address_cooldown_s)
        self.hub = Hub(self.snapshot, clock, settings.sync, store_id=store.store_id, epoch=store.epoch)
        self._follower = Follower(store, self.snapshot, clock)
        self.reconciler = Reconciler(
            registry=self.registry, follower=self._follower, hub=self.hub, clock=clock, rng=rng, settings=settings
        )
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Stores the Cluster document, reads the store, and starts the loops.

        Raises:
            InvalidInput: the Cluster document changes what nodes already use.
        """
        await self.registry.apply([self.settings.cluster.document()])
        await self._follower.load()
        await self.reconciler.prepare()
        self._running = asyncio.create_task(self.reconciler.run(), name="reconcile")

    async def finished(self) -> None:
        """Waits for the loops; returns or raises when they end, which only `stop` or a bug makes them do."""
        if self._running is None:
            raise Unavailable("the controller was not started")
        await asyncio.shield(self._running)

    async def session(self, node: str, transport: Transport) -> None:
        """Serves one agent's stream until it ends; `node` is the name in its certificate. Raises what `Session.run` does."""
        await Session(self.hub, node, transport, self.reconciler).run()

    async def reached(self, revision: int) -> None:
        """Returns once the loops have seen a revision."""
        await self._follower.reached(revision)

    async def stop(self) -> None:
        """Ends loops and streams. What was recorded but not yet written is written if the store still takes it."""
        for node in list(self.hub.agents):
            self.hub.drop(node, "the controller is stopping")
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        try:
            await self.reconciler.events.flush()
        except PodwireError:
            return
