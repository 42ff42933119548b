"""Merging documents: what `apply` and `patch` do to one, as pure functions.

In: JSON values. Out: a new one; the inputs are never changed, but the result may share parts with them.
`three_way` is kubectl's apply: what the file says wins, what the file said last time and no longer says goes, everything else (defaults,
what others wrote) stays. Lists are replaced whole unless the rules of their kind say that their items have a key, as Kubernetes'
strategic merge has it: https://kubernetes.io/docs/tasks/manage-kubernetes-objects/declarative-config/#how-different-types-of-fields-are-merged
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from podwire.errors import InvalidInput

MAX_DEPTH = 100  # of nesting: every recursion over documents stays far from Python's own limit

Rules: TypeAlias = "Mapping[str, Rule]"
"""By field name: how its value merges. A field that is not named merges as a map, or is replaced."""
Rule: TypeAlias = "Rules | ByKey | AsSet"


@dataclass(frozen=True, slots=True)
class ByKey:
    """A list of maps whose items are the same item when these fields agree; absent ones count as their default."""

    keys: tuple[str, ...]
    fields: Rules = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def index(self, items: Any) -> dict[tuple[Any, ...], dict[str, Any]] | None:
        """Items by key; None where they cannot be told apart, so that the list has to be replaced whole."""
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        if not isinstance(items, list):
            return None
        for item in items:
            if not isinstance(item, dict):
                return None
            key = tuple(item.get(name, self.defaults.get(name)) for name in self.keys)
            if key in found or not all(isinstance(part, str | int) for part in key):
                return None
            found[key] = item
        return found


@dataclass(frozen=True, slots=True)
class AsSet:
    """A list of plain values of which each stands once."""


NO_RULES: Rules = {}
METADATA: Rules = {"finalizers": AsSet(), "ownerReferences": ByKey(("uid",))}
CONDITIONS = ByKey(("type",))
_TCP = {"protocol": "TCP"}
CONTAINERS = ByKey(
    ("name",),
    {
        "env": ByKey(("name",)),
        # The strategic merge key is containerPort alone, which loses one of TCP and UDP on the same port; server-side apply has both.
        "ports": ByKey(("containerPort", "protocol"), defaults=_TCP),
        "volumeMounts": ByKey(("mountPath",)),
        "volumeDevices": ByKey(("devicePath",)),
    },
)
POD_SPEC: Rules = {
    "containers": CONTAINERS,
    "initContainers": CONTAINERS,
    "ephemeralContainers": CONTAINERS,
    "volumes": ByKey(("name",)),
    "imagePullSecrets": ByKey(("name",)),
    "hostAliases": ByKey(("ip",)),
    "schedulingGates": ByKey(("name",)),
    "topologySpreadConstraints": ByKey(("topologyKey", "whenUnsatisfiable")),
}
POD_RULES: Rules = {"metadata": METADATA, "spec": POD_SPEC}
NODE_RULES: Rules = {"metadata": METADATA, "spec": {"podCIDRs": AsSet()}}


def three_way(
    original: Mapping[str, Any], modified: Mapping[str, Any], current: Mapping[str, Any], rules: Rules = NO_RULES
) -> dict[str, Any]:
    """`current` with what `modified` says, less what only `original` said."""
    merged = {
        name: value
        for name, value in current.items()
        if name in modified or name not in original or original[name] is None
    }
    for name, wanted in modified.items():
        if wanted is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge_value(original.get(name), wanted, merged.get(name), rules.get(name))
    return merged


def _merge_value(original: Any, wanted: Any, current: Any, rule: Rule | None) -> Any:
    if isinstance(wanted, dict):
        under = rule if isinstance(rule, Mapping) else NO_RULES
        said, is_now = (value if isinstance(value, dict) else {} for value in (original, current))
        return three_way(said, wanted, is_now, under)
    if isinstance(wanted, list) and isinstance(current, list):
        if isinstance(rule, ByKey):
            return _merge_by_key(original, wanted, current, rule)
        if isinstance(rule, AsSet):
            once = original if isinstance(original, list) else []
            return _kept_in_order(wanted, [value for value in current if value in wanted or value not in once])
    return wanted


def _merge_by_key(original: Any, wanted: list[Any], current: list[Any], rule: ByKey) -> list[Any]:
    wants, has = rule.index(wanted), rule.index(current)
    said = rule.index(original) or {}
    if wants is None or has is None:
        return wanted
    items = {key: three_way(said.get(key, {}), item, has.get(key, {}), rule.fields) for key, item in wants.items()}
    kept = {key: item for key, item in has.items() if key in wants or key not in said}
    return [items.get(key) or kept[key] for key in _kept_in_order(list(wants), list(kept))]


def _kept_in_order(wanted: list[Any], current: list[Any]) -> list[Any]:
    """The wanted order, with what only `current` has placed behind its predecessor there: an unchanged file changes no order."""
    result = list(wanted)
    behind = -1
    for value in current:
        if value in wanted:
            behind = result.index(value)
        else:
            behind += 1
            result.insert(behind, value)
    return result


def merge_patch(target: Any, patch: Any) -> Any:
    """JSON merge patch (RFC 7386): null removes, lists are replaced."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def without_nulls(value: Any, depth: int = MAX_DEPTH) -> Any:
    """A copy in which fields that are null are absent, as Kubernetes reads them; nothing is shared with the input.

    Raises:
        InvalidInput: it is nested deeper than any honest document.
    """
    if not depth:
        raise InvalidInput(f"the document is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        return {name: without_nulls(under, depth - 1) for name, under in value.items() if under is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(item, depth - 1) for item in value]
    return value
