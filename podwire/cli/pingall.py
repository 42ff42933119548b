"""Every pod to every pod, in every address family that both have: which probes, and what is shown of the answers.

In: pods as the controller lists them, and probe results. Out: `Crossing`s with their probes, a matrix or a list, and a document. Pure:
`test.py` sends the probes.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from podwire.api.v1 import node_agent_pb2 as agent
from podwire.api.v1.control_pb2 import PairProbe
from podwire.cli.podstatus import summary
from podwire.cli.render import matrix
from podwire.cli.tables import Table

MATRIX_PODS = 24  # more do not fit on a screen: only what failed is listed then
FAILURES_SHOWN = 20
NO_FAMILY = "no address family in common"


@dataclass(frozen=True, slots=True)
class Crossing:
    """From one pod to another, by their places in the list, at one address; none where they share no family."""

    source: int
    target: int
    address: str
    version: int

    @property
    def id(self) -> str:
        """Names its probe."""
        return f"{self.source}-{self.target}-{self.version}"


def addresses(pod: Mapping[str, Any]) -> dict[int, str]:
    """The address to try, by family; empty for a pod that has none of its own, or does not run."""
    status = pod.get("status", {})
    if pod["spec"].get("hostNetwork") or summary(dict(pod)) == "Terminating" or status.get("phase") != "Running":
        return {}
    return {ipaddress.ip_address(one["ip"]).version: str(one["ip"]) for one in status.get("podIPs") or ()}


def crossings(pods: Sequence[Mapping[str, Any]]) -> list[Crossing]:
    """All of them, in order."""
    owned = [addresses(pod) for pod in pods]
    found: list[Crossing] = []
    for source, target in itertools.permutations(range(len(pods)), 2):
        shared = sorted(owned[source].keys() & owned[target].keys())
        found += [Crossing(source, target, owned[target][version], version) for version in shared]
        if not shared:
            found.append(Crossing(source, target, "", 0))
    return found


def probe(pods: Sequence[Mapping[str, Any]], crossing: Crossing, port: int | None) -> PairProbe:
    """What to send: a ping, or a TCP connection to a port."""
    source = pods[crossing.source]["metadata"]
    return PairProbe(
        id=crossing.id,
        namespace=source["namespace"],
        pod=source["name"],
        address=crossing.address,
        port=port or 0,
        kind=agent.PROBE_KIND_TCP if port else agent.PROBE_KIND_ICMP,
    )


class Outcome:
    """What came back, pair by pair: a pair is good when every family is."""

    def __init__(
        self,
        pods: Sequence[Mapping[str, Any]],
        tried: Sequence[Crossing],
        results: Mapping[str, agent.ProbeResult],
    ) -> None:
        self._names = _names(pods)
        self._tried = tried
        self._results = results
        self._pairs: dict[tuple[int, int], list[Crossing]] = {}
        for crossing in tried:
            self._pairs.setdefault((crossing.source, crossing.target), []).append(crossing)
        self._wrong = {pair: text for pair in self._pairs if (text := self._judge(self._pairs[pair]))}

    @property
    def ok(self) -> bool:
        """Whether every pair is good."""
        return not self._wrong

    def table(self) -> Table | None:
        """The matrix; None where it would not fit."""
        if len(self._names) > MATRIX_PODS:
            return None
        places = {name: place for place, name in enumerate(self._names)}

        def cell(source: str, target: str) -> str:
            if source == target:
                return "."
            wrong = self._wrong.get((places[source], places[target]))
            return f"FAIL ({wrong})" if wrong else "ok"

        return matrix(self._names, cell)

    def failures(self) -> Iterator[str]:
        """The first that failed, a line each."""
        for (source, target), wrong in itertools.islice(self._wrong.items(), FAILURES_SHOWN):
            yield f"FAIL {self._names[source]} to {self._names[target]}: {wrong}"

    def sentence(self) -> str:
        """All in one."""
        versions = sorted({crossing.version for crossing in self._tried} - {0})
        families = f", over {' and '.join(f'IPv{version}' for version in versions)}" if len(versions) > 1 else ""
        return f"{len(self._pairs) - len(self._wrong)} of {len(self._pairs)} pairs reach each other{families}."

    def document(self) -> dict[str, Any]:
        """The same as JSON, an entry per pair and family."""
        cells = [
            {
                "from": self._names[crossing.source],
                "to": self._names[crossing.target],
                "address": crossing.address,
                "ok": not self._error(crossing),
                "rttMs": round(self._result(crossing).rtt_ms, 3),
                "error": self._error(crossing),
            }
            for crossing in self._tried
        ]
        return {"kind": "PingAll", "ok": self.ok, "pairs": cells}

    def _judge(self, families: Sequence[Crossing]) -> str:
        """Empty, or what is wrong; names the family where only one of several failed."""
        errors = {crossing.version: error for crossing in families if (error := self._error(crossing))}
        if len(errors) == len(families) and len(set(errors.values())) == 1:
            return next(iter(errors.values()))
        return ", ".join(f"IPv{version}: {error}" for version, error in errors.items())

    def _error(self, crossing: Crossing) -> str:
        if not crossing.version:
            return NO_FAMILY
        result = self._result(crossing)
        return "" if result.ok else result.error or "no answer"

    def _result(self, crossing: Crossing) -> agent.ProbeResult:
        return self._results.get(crossing.id) or agent.ProbeResult()


def _names(pods: Sequence[Mapping[str, Any]]) -> list[str]:
    """Short where all are of one namespace."""
    spaces = {pod["metadata"]["namespace"] for pod in pods}
    return [
        pod["metadata"]["name"] if len(spaces) == 1 else f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        for pod in pods
    ]
