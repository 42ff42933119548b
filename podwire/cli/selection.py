"""What a command is about: `pods`, `po,no`, `pod/a`, `pod a b`, as kubectl reads them; and `key=value` lists.

In: words of a command line. Out: `Target` values, or InvalidInput. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from podwire.errors import InvalidInput
from podwire.model import names
from podwire.model.kinds import KINDS, Kind, kind_named

ALL = ("pods", "services", "deployments", "replicasets")  # what `get all` means to kubectl


@dataclass(frozen=True, slots=True)
class Target:
    """One object, or all of a kind where the name is empty."""

    kind: Kind
    name: str = ""


def parse_targets(words: Sequence[str]) -> list[Target]:
    """Kinds and names from a command line; raises InvalidInput."""
    if not words:
        raise InvalidInput(
            "no resource type is given",
            hint=f"for example: pods, nodes; known: {', '.join(kind.resource for kind in KINDS)}",
        )
    if any("/" in word for word in words):
        return [_pair(word) for word in words]
    kinds = [kind_named(word) for word in words[0].split(",") if word]
    if len(words) == 1:
        return [Target(kind) for kind in kinds]
    return [Target(kind, name) for kind in kinds for name in words[1:]]


def parse_target(words: Sequence[str], default_kind: str = "pod") -> Target:
    """Exactly one object: `NAME` of the default kind, `KIND/NAME` or `KIND NAME`. Raises InvalidInput."""
    targets = (
        [Target(kind_named(default_kind), words[0])]
        if len(words) == 1 and "/" not in words[0]
        else parse_targets(words)
    )
    if len(targets) != 1 or not targets[0].name:
        raise InvalidInput(f"{' '.join(words)!r} does not name one object", hint=f"write {default_kind}/NAME")
    return targets[0]


def parse_labels(text: str, field: str = "labels") -> dict[str, str]:
    """`k=v,k2=v2` as a mapping; raises InvalidInput."""
    labels: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise InvalidInput(f"{field}: {part!r} is not key=value", field=field)
        labels[names.label_key(key, field)] = names.label_value(value, field)
    return labels


def parse_label_changes(words: Sequence[str]) -> dict[str, str | None]:
    """`k=v` sets, `k-` removes (None), as a merge patch has it. Raises InvalidInput."""
    changes: dict[str, str | None] = {}
    for word in words:
        if "=" in word:
            key, _, value = word.partition("=")
            change: str | None = names.label_value(value, "label")
        elif word.endswith("-"):
            key, change = word[:-1], None
        else:
            raise InvalidInput(
                f"{word!r} is neither key=value nor key-", hint="for example: app=web, or app- to remove it"
            )
        if names.label_key(key, "label") in changes:
            raise InvalidInput(f"label {key!r} is given twice")
        changes[key] = change
    return changes


def is_label_change(word: str) -> bool:
    """Whether a word of `label` is a change and not the name of an object."""
    return "=" in word or word.endswith("-")


def _pair(word: str) -> Target:
    kind, slash, name = word.partition("/")
    if not slash or not kind or not name or "/" in name:
        raise InvalidInput(
            f"{word!r} is not KIND/NAME", hint="write all of them as KIND/NAME, or one KIND and then names"
        )
    return Target(kind_named(kind), name)
