"""How node containers run on an engine: privileged where it grants that, else with two capabilities; and why.

In: what `up` was asked, what the cluster was made with, and the engine's answer to a privileged container, which is remembered for each
engine and version. Out: a mode and a reason, for `status` and `doctor`. Nothing is read from version numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from podwire.drivers.base import Fact
from podwire.seams import Disk

PRIVILEGED, RESTRICTED = "privileged", "restricted"
ASKED_FOR = "asked for with --restricted"

# Engine 20.10 with its runc, and later ones.
_RUNTIME_REASON = re.compile(r"container process(?: caused)?: (?P<reason>.*?)(?:: unknown)?$", re.DOTALL)


def decide(asked: bool | None, made_with: Mapping[str, str], refusal: Callable[[], str]) -> tuple[str, str]:
    """Mode and reason. Where nothing is asked, a cluster that was made restricted stays so."""
    if asked is None:
        asked = made_with.get("why") == ASKED_FOR
    if asked:
        return RESTRICTED, ASKED_FOR
    refused = refusal()
    return (RESTRICTED, refused) if refused else (PRIVILEGED, "")


def refusal(version: str, explanation: str) -> str:
    """What an engine's error means in one line."""
    found = _RUNTIME_REASON.search(explanation)
    reason = found["reason"] if found else explanation
    return f"Docker Engine {version} refuses privileged containers: {' '.join(reason.split())}"


class Verdicts:
    """What engines answered, by identity: what one refuses today it will refuse tomorrow."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        self._path = path

    def known(self, engine: str) -> str | None:
        """Its refusal, empty where it grants; None where it was never asked."""
        return self._all().get(engine)

    def of(self, engine: str, ask: Callable[[], str]) -> str:
        """Its refusal, or empty; asks it once."""
        verdict = self.known(engine)
        if verdict is None:
            verdict = ask()
            self._disk.replace(self._path, json.dumps(self._all() | {engine: verdict}).encode())
        return verdict

    def _all(self) -> dict[str, str]:
        verdicts: dict[str, str] = json.loads(self._disk.read(self._path) or b"{}")
        return verdicts


def fact(made_with: Mapping[str, str], known: str | None) -> Fact:
    """What `doctor` says: how this cluster's nodes run, or how those of the next would."""
    mode, why = (made_with.get(name, "") for name in ("privileges", "why"))
    if not mode:
        if known is None:
            return Fact("node privileges", "not tried on this engine yet; the first `podwire up` tries", ok=True)
        mode, why = (RESTRICTED, known) if known else (PRIVILEGED, "")
    value = f"{mode} ({why})" if why else mode
    if mode == PRIVILEGED or why == ASKED_FOR:
        return Fact("node privileges", value, ok=True)
    return Fact(
        "node privileges", value, ok=True, fix="restricted nodes do all that podwire needs; Engine 26 grants more"
    )
