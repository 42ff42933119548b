"""Selectors: `app in (web, api), !canary` over labels and `spec.nodeName=a` over fields, parsed once and then asked per object.

In: the strings of a command line or a URL. Out: a `Selector`, or InvalidInput that says where it is wrong.
A label that is absent satisfies != and notin, as in Kubernetes; a field that is absent counts as the empty string.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from podwire.errors import InvalidInput
from podwire.model.names import label_key, label_value

FIELDS = (
    "metadata.name",
    "metadata.namespace",
    "spec.nodeName",
    "status.phase",
    "involvedObject.uid",
    "reason",
    "type",
)

Operator = Literal["in", "notin", "exists", "absent"]
_SET = re.compile(r"(?P<key>[^\s!=,()]+)\s+(?P<operator>in|notin)\s*\((?P<values>[^()]*)\)")
_EQUALITY = re.compile(r"(?P<key>[^\s!=,()]+)\s*(?P<operator>==|=|!=)\s*(?P<value>[^\s!=,()]*)")
_EXISTENCE = re.compile(r"(?P<negated>!)?\s*(?P<key>[^\s!=,()]+)")
_SEPARATOR = re.compile(r"\s*,\s*")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one key."""

    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def holds(self, value: str | None) -> bool:
        """Whether a value, or its absence, satisfies it."""
        if self.operator == "in":
            return value in self.values
        if self.operator == "notin":
            return value not in self.values
        return (value is not None) == (self.operator == "exists")


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements must hold; an empty selector selects everything."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[Requirement, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.labels or self.fields)

    def matches(self, doc: Mapping[str, Any]) -> bool:
        """Whether a document is selected."""
        if self.labels and not selects(self.labels, (doc.get("metadata") or {}).get("labels") or {}):
            return False
        return all(requirement.holds(field_value(doc, requirement.key)) for requirement in self.fields)


EVERYTHING = Selector()


def selects(requirements: tuple[Requirement, ...], labels: Mapping[str, str]) -> bool:
    """Whether labels satisfy all requirements."""
    return all(requirement.holds(labels.get(requirement.key)) for requirement in requirements)


def field_value(doc: Mapping[str, Any], path: str) -> str:
    """The value at a dotted path as a string; empty where there is none."""
    value: Any = doc
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return ""
        value = value.get(part)
    return "" if value is None or isinstance(value, Mapping | list) else str(value)


def parse_selector(labels: str = "", fields: str = "") -> Selector:
    """Both kinds at once; raises InvalidInput."""
    return Selector(parse_label_selector(labels), parse_field_selector(fields))


def parse_label_selector(text: str, field: str = "labelSelector") -> tuple[Requirement, ...]:
    """`a=b, c!=d, e in (f, g), h notin (i), j, !k`; raises InvalidInput."""
    return _parse(text, field, _label_requirement)


def parse_field_selector(text: str, field: str = "fieldSelector") -> tuple[Requirement, ...]:
    """`spec.nodeName=a, status.phase!=Failed`; raises InvalidInput for fields that are not selectable."""
    return _parse(text, field, _field_requirement)


_Reader = Callable[[str, int, str], tuple[Requirement, int] | None]


def _parse(text: str, field: str, read: _Reader) -> tuple[Requirement, ...]:
    found: list[Requirement] = []
    text = text.strip()
    position = 0
    while position < len(text):
        if found:
            separator = _SEPARATOR.match(text, position)
            if separator is None:
                raise InvalidInput(f"{field}: expected ',' before {text[position:]!r}", field=field)
            position = separator.end()
        step = read(text, position, field)
        if step is None:
            raise InvalidInput(f"{field}: {text!r} is not a selector (at {text[position:]!r})", field=field)
        requirement, position = step
        found.append(requirement)
    return tuple(found)


def _label_requirement(text: str, position: int, field: str) -> tuple[Requirement, int] | None:
    operator: Operator
    if match := _SET.match(text, position):
        operator = "in" if match["operator"] == "in" else "notin"
        values = frozenset(value.strip() for value in match["values"].split(","))
    elif match := _EQUALITY.match(text, position):
        operator, values = ("notin" if match["operator"] == "!=" else "in"), frozenset((match["value"],))
    elif match := _EXISTENCE.match(text, position):
        operator, values = ("absent" if match["negated"] else "exists"), frozenset()
    else:
        return None
    for value in values:
        label_value(value, field)
    return Requirement(label_key(match["key"], field), operator, values), match.end()


def _field_requirement(text: str, position: int, field: str) -> tuple[Requirement, int] | None:
    match = _EQUALITY.match(text, position)
    if match is None:
        return None
    if match["key"] not in FIELDS:
        raise InvalidInput(f"{field}: cannot select by {match['key']!r}; one can by {', '.join(FIELDS)}", field=field)
    operator: Operator = "notin" if match["operator"] == "!=" else "in"
    return Requirement(match["key"], operator, frozenset((match["value"],))), match.end()
