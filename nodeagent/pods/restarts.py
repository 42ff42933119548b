"""Pure decisions about a container that has ended: run it again, and when.

In: the restart policy, how it ended, and what happened before. Out: a yes or no, and a pause. The pauses are the kubelet's: the first
restart is immediate, then 10 s doubling to 5 min, counted from the end of the last run; ten quiet minutes forget all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from nodeagent.pods.base import Exit
from nodeagent.pods.hosted import HOST_DIED
from nodeagent.pods.pod import ALWAYS, NEVER

FIRST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 300.0
FORGET_S = 600.0
LOST = "ContainerStatusUnknown"  # ended unseen: the node restarted, or its sandbox was replaced


@dataclass(frozen=True, slots=True)
class BackOff:
    """The pause that holds now, and when it was set (monotonic)."""

    pause_s: float
    set_at: float


def wants_restart(policy: str, end: Exit, *, init: bool = False) -> bool:
    """Whether a container that ended so is run again. An init container that succeeded is done, whatever the policy."""
    if policy == NEVER:
        return False
    return end.code != 0 or (policy == ALWAYS and not init)


def not_its_fault(end: Exit) -> bool:
    """Whether the end came from outside (the workload host's death, a node restart): such a container starts again at once."""
    return end.reason in (HOST_DIED, LOST)


def remaining(back_off: BackOff | None, ended_at: float, now: float) -> float:
    """How long to wait still before the next start; all times monotonic."""
    if back_off is None or ended_at - back_off.set_at > FORGET_S:
        return 0.0
    return max(0.0, back_off.pause_s - (now - ended_at))


def advance(back_off: BackOff | None, ended_at: float, now: float) -> BackOff:
    """The pause after the one that was just waited out."""
    if back_off is None or ended_at - back_off.set_at > FORGET_S:
        return BackOff(FIRST_PAUSE_S, now)
    return BackOff(min(back_off.pause_s * 2, LONGEST_PAUSE_S), now)
