"""From what a user wrote to the objects it means: types become the objects of that type, in a namespace, with labels.

In: targets of a command line. Out: targets that each name one object. Used by every verb that changes or waits for objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from podwire.cli.selection import Target

if TYPE_CHECKING:
    from podwire.client import ControlClient


def require_choice(targets: Sequence[Target], *, everything: bool, selector: str) -> None:
    """A bare type means all of its objects only where the user said so; raises a usage error otherwise."""
    if any(not target.name for target in targets) and not everything and not selector:
        raise click.UsageError("give names, --all, or a selector with -l")


def scope_of(target: Target, namespace: str) -> str:
    """The namespace to ask in; empty for kinds that live in none."""
    return namespace if target.kind.namespaced else ""


async def resolve(
    client: ControlClient, targets: Sequence[Target], *, namespace: str, selector: str = ""
) -> list[Target]:
    """Replaces each bare type by its objects as they are now."""
    found: list[Target] = []
    for target in targets:
        if target.name:
            found.append(target)
            continue
        listed = await client.list(target.kind.resource, namespace=scope_of(target, namespace), label_selector=selector)
        found += [Target(target.kind, document["metadata"]["name"]) for document in listed.documents]
    return found
