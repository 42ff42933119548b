"""Node loss: which nodes count as silent.

In: when each node was last heard, and `now` (monotonic), at every tick. Out: the nodes that are silent. Pure but for its memory of the
last tick. A controller that was paused, and one that was cut off from all nodes at once, learn nothing from silence: they mark nobody.
"""

from __future__ import annotations

DEFAULT_TIMEOUT_S = 40.0
DEFAULT_TOLERATION_S = 300.0
TOGETHER_S = 15.0
"""Nodes whose last words lie closer than this fell silent at once: more than a heartbeat, less than the timeout."""


class NodeLoss:
    """See the module's docstring."""

    def __init__(self, timeout_s: float = DEFAULT_TIMEOUT_S, toleration_s: float = DEFAULT_TOLERATION_S) -> None:
        self._timeout_s = timeout_s
        self._toleration_s = toleration_s
        self._heard: dict[str, float] = {}
        self._last_tick: float | None = None
        self._silent: set[str] = set()

    def heard(self, node: str, now: float) -> bool:
        """The node said something; returns whether it counted as silent."""
        self._heard[node] = now
        was_silent = node in self._silent
        self._silent.discard(node)
        return was_silent

    def forget(self, node: str) -> None:
        """The node was deleted."""
        self._heard.pop(node, None)
        self._silent.discard(node)

    def last_heard(self, node: str) -> float | None:
        """When it last said something; None when never."""
        return self._heard.get(node)

    def silent(self, nodes: set[str], now: float, *, tick_s: float) -> frozenset[str]:
        """Which of these nodes are silent now, given that this is asked every `tick_s`."""
        for node in nodes - self._heard.keys():
            self._heard[node] = now  # never heard since this controller started: give it the whole timeout
        paused = self._last_tick is not None and now - self._last_tick > max(3 * tick_s, self._timeout_s / 4)
        self._last_tick = now
        if paused:
            for node in nodes - self._silent:
                self._heard[node] = now
        quiet = {node for node in nodes if now - self._heard[node] > self._timeout_s}
        if not self._all_at_once(nodes, quiet):
            self._silent = quiet
        self._silent &= nodes
        return frozenset(self._silent)

    def _all_at_once(self, nodes: set[str], quiet: set[str]) -> bool:
        """Whether every node that still spoke stopped together; a single node proves nothing either way and is marked."""
        newly = quiet - self._silent
        speaking = nodes - self._silent
        if len(speaking) < 2 or newly != speaking:
            return False
        words = [self._heard[node] for node in newly]
        return max(words) - min(words) <= TOGETHER_S

    def lost(self, now: float) -> frozenset[str]:
        """Silent for longer than the toleration: their pods may be replaced, and keep their addresses until the node is deleted."""
        return frozenset(
            node for node in self._silent if now - self._heard[node] > self._timeout_s + self._toleration_s
        )
