"""Drift: what had been right and is not any more.

In: operations that a reading of the kernel made necessary, and what was right before. Out: names of the objects concerned, and repairs
for the report. New work is not drift: a pod or a peer counts only once it has been right, the
node's own objects only against the plan that they were right by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from nodeagent.kernel.base import NodeNetwork, Observed, Peer, PodLink
from nodeagent.operations import EnsureNode, EnsurePeers, Operation, ResetGuard, WirePod
from podwire.api.v1 import state_pb2 as state
from podwire.seams import Clock
from podwire.telemetry import logger

log = logger(__name__)

KEPT = 100


class Drift:
    """Remembers what was right."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._network: NodeNetwork | None = None
        self._pods: frozenset[str] = frozenset()
        self._peers: frozenset[Peer] = frozenset()
        self._repairs: list[state.Repair] = []

    def found(
        self,
        operations: Sequence[Operation],
        network: NodeNetwork,
        observed: Observed,
        name_of: Callable[[PodLink], str],
    ) -> list[str]:
        """Names of what must be mended though it had been right."""
        names: list[str] = []
        for operation in operations:
            match operation:
                case EnsureNode() if network == self._network:
                    names += observed.missing
                case EnsurePeers(peers=peers):
                    names += [f"forwarding towards node {peer.node}" for peer in peers if peer in self._peers]
                case WirePod(link=link) if link.uid in self._pods:
                    names.append(f"network of pod {name_of(link)}")
                case ResetGuard():
                    names.append("guard sets")
                case _:
                    pass
        return names

    def mended(self, names: Iterable[str], *, failed: bool) -> None:
        """Notes the outcome of mending."""
        action = "repair failed" if failed else "restored"
        stamp = int(self._clock.wall() * 1000)
        for name in names:
            log.warning("drift", object=name, action=action)
            self._repairs.append(state.Repair(object=name, action=action, unix_ms=stamp))
        del self._repairs[:-KEPT]

    def right(self, network: NodeNetwork, pods: Iterable[str]) -> None:
        """From now on these count as having been right."""
        self._network = network
        self._pods = frozenset(pods)
        self._peers = frozenset(network.peers)

    def take(self) -> list[state.Repair]:
        """The repairs since the last call."""
        repairs, self._repairs = self._repairs, []
        return repairs

    @property
    def pending(self) -> bool:
        """Whether there are repairs that nobody has taken."""
        return bool(self._repairs)
