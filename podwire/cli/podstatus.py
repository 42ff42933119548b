"""What a Pod document amounts to in one word: the READY, STATUS and RESTARTS columns of kubectl, and our stand-in mark.

In: a Pod document. Out: text. Pure. A stand-in is a container whose image we do not have, so that a twin answers on its ports; the
controller says so in the condition below, and every table shows it: nobody may take a twin for the real thing.
"""

from __future__ import annotations

from typing import Any

STAND_IN_CONDITION = "podwire.dev/StandIn"
STAND_IN_MARK = "stand-in"


def is_stand_in(pod: dict[str, Any]) -> bool:
    """Whether one of its containers is a stand-in."""
    return condition(pod, STAND_IN_CONDITION) == "True"


def ready_containers(pod: dict[str, Any]) -> tuple[int, int]:
    """Ready containers, and all."""
    statuses = pod.get("status", {}).get("containerStatuses") or []
    wanted = len(pod.get("spec", {}).get("containers") or [])
    return sum(1 for status in statuses if status.get("ready")), wanted


def restarts(pod: dict[str, Any]) -> int:
    """Restarts of all containers together."""
    status = pod.get("status", {})
    init = status.get("initContainerStatuses") or []
    return sum(int(one.get("restartCount") or 0) for one in [*init, *(status.get("containerStatuses") or [])])


def summary(pod: dict[str, Any]) -> str:
    """One word: the phase, or what keeps the pod from it (CrashLoopBackOff, Init:0/1, Terminating, …)."""
    status = pod.get("status", {})
    word = str(status.get("reason") or status.get("phase") or "Unknown")
    starting = _init_word(pod)
    word = starting or _container_word(status, word)
    if pod.get("metadata", {}).get("deletionTimestamp"):
        return "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    return word


def ready(pod: dict[str, Any]) -> bool:
    """Whether the condition Ready is true."""
    return condition(pod, "Ready") == "True"


def condition(document: dict[str, Any], wanted: str) -> str | None:
    """Status of a condition (`True`, `False`, `Unknown`), matched whatever its case; None where there is none."""
    for one in document.get("status", {}).get("conditions") or []:
        if str(one.get("type", "")).lower() == wanted.lower():
            return str(one.get("status", ""))
    return None


def _init_word(pod: dict[str, Any]) -> str:
    """What an unfinished init container says; empty once all have ended well."""
    wanted = len(pod.get("spec", {}).get("initContainers") or [])
    for position, one in enumerate(pod.get("status", {}).get("initContainerStatuses") or []):
        state = one.get("state") or {}
        ended, waiting = state.get("terminated"), state.get("waiting")
        if ended and ended.get("exitCode", 0) == 0:
            continue
        if ended:
            return f"Init:{_ended_word(ended)}"
        if waiting and waiting.get("reason") not in (None, "", "PodInitializing"):
            return f"Init:{waiting['reason']}"
        return f"Init:{position}/{wanted}"
    return ""


def _container_word(status: dict[str, Any], word: str) -> str:
    running = False
    for one in reversed(status.get("containerStatuses") or []):
        state = one.get("state") or {}
        waiting, ended = state.get("waiting") or {}, state.get("terminated")
        if waiting.get("reason"):
            word = str(waiting["reason"])
        elif ended is not None:
            word = _ended_word(ended)
        elif one.get("ready") and "running" in state:
            running = True
    if word == "Completed" and running:
        return "Running" if condition({"status": status}, "Ready") == "True" else "NotReady"
    return word


def _ended_word(ended: dict[str, Any]) -> str:
    if ended.get("reason"):
        return str(ended["reason"])
    return f"Signal:{ended['signal']}" if ended.get("signal") else f"ExitCode:{ended.get('exitCode', 0)}"
