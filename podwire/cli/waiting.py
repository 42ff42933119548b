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
            await asyncio.gather(*(_one(client, target, wish, namespace, done) for target in targets))
    except TimeoutError as error:
        late = next(target for target in targets if _label(target) not in done)
        raise PodwireError(
            f"{wish.text!r} did not hold for {_label(late)} within {timeout_s:g} s",
            hint=f"see: podwire describe {late.kind.singular} {late.name}",
        ) from error


async def _one(client: ControlClient, target: Target, wish: Wish, namespace: str, done: set[str]) -> None:
    scope = scope_of(target, namespace)
    while True:
        listed = await client.list(target.kind.resource, namespace=scope, field_selector=f"metadata.name={target.name}")
        document = listed.documents[0] if listed.documents else None
        if wish.holds(document):
            break
        if document is None and not wish.absent and wish.text != "create":
            raise NotFound(
                f"there is no {target.kind.singular} {target.name!r}" + (f" in namespace {scope!r}" if scope else "")
            )
        try:
            if await _change(client, target, wish, scope, listed.revision):
                break
        except Expired:
            continue
    done.add(_label(target))


async def _change(client: ControlClient, target: Target, wish: Wish, scope: str, revision: int) -> bool:
    """Follows one object; False where the watch ended before the wish held."""
    events = client.watch(
        target.kind.resource, namespace=scope, field_selector=f"metadata.name={target.name}", revision=revision
    )
    async for event in events:
        if event.type == "BOOKMARK":
            continue
        if wish.holds(None if event.type == "DELETED" else event.document):
            return True
    return False


def _label(target: Target) -> str:
    return f"{target.kind.singular}/{target.name}"


def _matches(path: str, wanted: str, document: dict[str, Any]) -> bool:
    found = jsonpath.find(path, document)
    if not wanted:
        return any(value not in (None, "") for value in found)
    value = wanted.strip("'\"")
    return bool(found) and all(jsonpath.text(one) == value for one in found)
