"""Waiting for objects: until a condition holds, or until they are gone.

In: what to wait for, as `--for` has it. Out: a return when it holds, or an error that names the object for which it did not in time. The condition is
a pure function of a document; the watch is opened at a revision, so that no change between asking and watching is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from podwire.cli import jsonpath, podstatus
from podwire.cli.lookup import scope_of
from podwire.cli.selection import Target
from podwire.errors import Expired, InvalidInput, NotFound, PodwireError

if TYPE_CHECKING:
    from podwire.client import ControlClient


@dataclass(frozen=True, slots=True)
class Wish:
    """What must hold: `holds` is asked of each document, None standing for an object that is not there."""

    text: str
    holds: Callable[[dict[str, Any] | None], bool]
    absent: bool = False


def parse_wish(text: str) -> Wish:
    """Reads `delete`, `create`, `condition=Ready[=false]` or `jsonpath={.status.phase}[=Running]`. Raises InvalidInput."""
    form, _, rest = text.partition("=")
    if form == "delete" and not rest:
        return Wish(text, lambda document: document is None, absent=True)
    if form == "create" and not rest:
        return Wish(text, lambda document: document is not None)
    if form == "condition" and rest:
        name, _, wanted = rest.partition("=")
        status = wanted or "true"
        return Wish(
            text,
            lambda document: (
                document is not None and (podstatus.condition(document, name) or "").lower() == status.lower()
            ),
        )
    if form == "jsonpath" and rest:
        path, brace, tail = rest.rpartition("}")
        path, _, wanted = (path + brace, *tail.partition("=")[1:]) if brace else rest.partition("=")
        jsonpath.parse(path)
        return Wish(text, lambda document: document is not None and _matches(path, wanted, document))
    raise InvalidInput(
        f"--for={text} is not known", hint="use delete, create, condition=Ready or jsonpath='{.status.phase}'=Running"
    )


async def wait_for(
    client: ControlClient, targets: Sequence[Target], wish: Wish, *, namespace: str, timeout_s: float
) -> None:
    """Returns when the wish holds for every target; raises PodwireError that names the first one for which it does not."""
    import asyncio

    done: set[str] = set()
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.gather(*(_all(client, alike, wish, namespace, done) for alike in _by_resource(targets)))
    except TimeoutError as error:
        late = next(target for target in targets if _label(target) not in done)
        raise PodwireError(
            f"{wish.text!r} did not hold for {_label(late)} within {timeout_s:g} s",
            hint=f"see: podwire describe {late.kind.singular} {late.name}",
        ) from error


def _by_resource(targets: Sequence[Target]) -> list[list[Target]]:
    """Targets of one resource share a list and a watch, however many they are."""
    groups: dict[str, list[Target]] = {}
    for target in targets:
        groups.setdefault(target.kind.resource, []).append(target)
    return list(groups.values())


async def _all(client: ControlClient, targets: Sequence[Target], wish: Wish, namespace: str, done: set[str]) -> None:
    resource, scope = targets[0].kind.resource, scope_of(targets[0], namespace)
    selector = f"metadata.name={targets[0].name}" if len(targets) == 1 else ""
    left = {target.name: target for target in targets}

    def look(name: str, document: dict[str, Any] | None) -> None:
        if name in left and wish.holds(document):
            done.add(_label(left.pop(name)))

    while left:
        listed = await client.list(resource, namespace=scope, field_selector=selector)
        there = {document["metadata"]["name"]: document for document in listed.documents}
        for name, target in list(left.items()):
            look(name, there.get(name))
            if name in left and name not in there and not wish.absent and wish.text != "create":
                where = f" in namespace {scope!r}" if scope else ""
                raise NotFound(f"there is no {target.kind.singular} {name!r}{where}")
        if not left:
            return
        events = client.watch(resource, namespace=scope, field_selector=selector, revision=listed.revision)
        try:
            async for event in events:
                if event.type != "BOOKMARK":
                    look(event.document["metadata"]["name"], None if event.type == "DELETED" else event.document)
                if not left:
                    return
        except Expired:
            continue


def _label(target: Target) -> str:
    return f"{target.kind.singular}/{target.name}"


def _matches(path: str, wanted: str, document: dict[str, Any]) -> bool:
    found = jsonpath.find(path, document)
    if not wanted:
        return any(value not in (None, "") for value in found)
    value = wanted.strip("'\"")
    return bool(found) and all(jsonpath.text(one) == value for one in found)
