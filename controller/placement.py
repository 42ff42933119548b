"""Which node a pod goes to.

In: a pod's spec and the nodes with how many pods each has. Out: a node's name, or why there is none. Pure: of the nodes that fit, the
one with the fewest pods, then the first by name, so that the same cluster always places alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from controller.views import NodeTerm, PodSpec, Requirement


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node as placement sees it."""

    name: str
    labels: Mapping[str, str]
    ready: bool
    schedulable: bool
    pods: int
    room: bool = True  # an address is free on it


@dataclass(frozen=True, slots=True)
class Unplaced:
    """Why no node fits; `exhausted` when some would if they had a free address."""

    message: str
    exhausted: bool = False


def place(spec: PodSpec, nodes: Sequence[Candidate]) -> str | Unplaced:
    """The node for a pod that names none."""
    refusals: Counter[str] = Counter()
    fitting: list[Candidate] = []
    for node in nodes:
        refusal = _refusal(spec, node)
        if refusal:
            refusals[refusal] += 1
        else:
            fitting.append(node)
    if fitting:
        return min(fitting, key=lambda node: (node.pods, node.name)).name
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(refusals.items()))
    message = f"0/{len(nodes)} nodes are available" + (f": {reasons}" if reasons else "")
    return Unplaced(message, exhausted=_NO_ADDRESS in refusals)


_NO_ADDRESS = "had no free pod address"


def _refusal(spec: PodSpec, node: Candidate) -> str:
    if not node.ready:
        return "were not ready"
    if not node.schedulable:
        return "were unschedulable"
    if not _selected(spec.node_selector or {}, node.labels):
        return "didn't match the pod's node selector"
    affinity = spec.affinity.node_affinity if spec.affinity else None
    if (
        affinity
        and affinity.required
        and not any(_term_matches(term, node) for term in affinity.required.node_selector_terms)
    ):
        return "didn't match the pod's node affinity"
    return "" if node.room else _NO_ADDRESS


def _selected(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in selector.items())


def _term_matches(term: NodeTerm, node: Candidate) -> bool:
    """An empty term selects nothing, as in Kubernetes."""
    expressions = term.match_expressions or []
    fields = term.match_fields or []
    if not expressions and not fields:
        return False
    return _all_hold(expressions, node.labels) and _all_hold(fields, {"metadata.name": node.name})


def _all_hold(requirements: Iterable[Requirement], labels: Mapping[str, str]) -> bool:
    return all(_holds(requirement, labels) for requirement in requirements)


def _holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(requirement.key)
    values = requirement.values or []
    match requirement.operator:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            return _compares(requirement.operator, value, values)
        case _:
            return False


def _compares(operator: str, value: str | None, values: Sequence[str]) -> bool:
    try:
        have, want = int(value or ""), int(values[0])
    except (ValueError, IndexError):
        return False
    return have > want if operator == "Gt" else have < want
