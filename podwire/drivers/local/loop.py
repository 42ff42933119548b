"""A small event loop for processes that fork: signals, sockets and one timer, without threads and without asyncio.

In: handlers. Out: calls of them, one at a time. asyncio is left to the children: a loop that is forked while it runs cannot be used,
and what forks here must own nothing that a child would inherit half-alive.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
from collections.abc import Callable
from types import FrameType

from podwire.seams import Clock


class Loop:
    """Runs until `stop`."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._selector = selectors.DefaultSelector()
        self._signals: dict[int, Callable[[], None]] = {}
        self._running = True
        reading, writing = socket.socketpair()
        reading.setblocking(False)
        writing.setblocking(False)
        self._wakeup = (reading, writing)
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        self._selector.register(reading, selectors.EVENT_READ, self._drain)

    def on_signal(self, number: signal.Signals, handler: Callable[[], None]) -> None:
        """Calls the handler, in the loop, after the signal came; once for several that came together."""
        self._signals[number] = handler
        signal.signal(number, _ignore)

    def on_readable(self, source: socket.socket, handler: Callable[[], None]) -> None:
        """Calls the handler whenever the socket can be read or accepted from."""
        self._selector.register(source, selectors.EVENT_READ, handler)

    def close(self) -> None:
        """Lets go of the descriptors, and of those it watched."""
        signal.set_wakeup_fd(-1)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()
        self._wakeup[1].close()

    def stop(self) -> None:
        """Makes `run` return after the handler that calls this."""
        self._running = False

    def run(self, timer: Callable[[], float | None]) -> None:
        """`timer` does what is due and says in how many seconds it wants to be called again (None: only after an event)."""
        while self._running:
            for key, _ in self._selector.select(timer()):
                key.data()

    def _drain(self) -> None:
        numbers = set(os.read(self._wakeup[0].fileno(), 4096))
        for number in numbers & self._signals.keys():
            self._signals[number]()


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """A Python handler must exist for the wake-up descriptor to be written to."""
