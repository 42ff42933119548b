"""`podwire describe`: one object in full, with its conditions and events.

In: a kind and names. Out: a page per object (see `description.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from podwire.cli import options
from podwire.cli.app import App, pass_app, usage
from podwire.cli.lookup import resolve, scope_of
from podwire.cli.selection import Target, parse_targets
from podwire.errors import NotFound

if TYPE_CHECKING:
    from podwire.client import ControlClient


@click.command("describe")
@click.argument(
    "words", nargs=-1, required=True, metavar="TYPE [NAME…] | TYPE/NAME…", shell_complete=options.complete_targets
)
@options.namespace_option
@options.selector_option
@pass_app
def command(app: App, *, words: tuple[str, ...], namespace: str, selector: str) -> None:
    """Show an object in full, with its events: describe pod web."""
    with usage():
        targets = parse_targets(words)

    async def work(client: ControlClient) -> None:
        found = await resolve(client, targets, namespace=namespace, selector=selector)
        if not found:
            raise NotFound(f"no {targets[0].kind.resource} found in namespace {namespace!r}")
        for number, target in enumerate(found):
            if number:
                app.renderer.line("")
            await _describe(app, client, target, scope_of(target, namespace))

    app.run(work)


async def _describe(app: App, client: ControlClient, target: Target, namespace: str) -> None:
    from podwire.cli.description import describe

    document = await client.get(target.kind.resource, target.name, namespace=namespace)
    events = await _events(client, document)
    app.renderer.raw(describe(target.kind.resource, document, events, now=app.now))


async def _events(client: ControlClient, document: dict[str, Any]) -> list[dict[str, Any]]:
    """Events about this very object, and not about an earlier one of its name."""
    metadata = document["metadata"]
    namespace = metadata.get("namespace", "")
    listed = await client.list("events", namespace=namespace, field_selector=f"involvedObject.uid={metadata['uid']}")
    return listed.documents
