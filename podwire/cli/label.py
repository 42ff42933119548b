"""`podwire label`: sets and removes labels.

In: objects, `key=value` and `key-`. Out: a line per object. A label that has another value is changed only with --overwrite, as
kubectl has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from podwire.cli import options
from podwire.cli.app import App, pass_app, usage
from podwire.cli.lookup import require_choice, resolve, scope_of
from podwire.cli.selection import Target, is_label_change, parse_label_changes, parse_targets
from podwire.errors import Conflict

if TYPE_CHECKING:
    from podwire.client import ControlClient


@click.command("label")
@click.argument(
    "words", nargs=-1, required=True, metavar="TYPE NAME… KEY=VALUE… KEY-…", shell_complete=options.complete_targets
)
@options.namespace_option
@options.selector_option
@click.option("--all", "everything", is_flag=True, help="All objects of the type in the namespace.")
@click.option("--overwrite", is_flag=True, help="Change labels that have another value.")
@pass_app
def command(
    app: App, *, words: tuple[str, ...], namespace: str, selector: str, everything: bool, overwrite: bool
) -> None:
    """Set or remove labels: label pod web tier=front old-."""
    first = next((position for position, word in enumerate(words) if is_label_change(word)), len(words))
    with usage():
        changes = parse_label_changes(words[first:])
        targets = parse_targets(words[:first])
    if not changes:
        raise click.UsageError("no label is given: KEY=VALUE sets one, KEY- removes it")
    require_choice(targets, everything=everything, selector=selector)

    async def work(client: ControlClient) -> None:
        for target in await resolve(client, targets, namespace=namespace, selector=selector):
            await _label(app, client, target, scope_of(target, namespace), changes, overwrite=overwrite)

    app.run(work)


async def _label(
    app: App, client: ControlClient, target: Target, scope: str, changes: dict[str, str | None], *, overwrite: bool
) -> None:
    if not overwrite:
        document = await client.get(target.kind.resource, target.name, namespace=scope)
        labels = document["metadata"].get("labels") or {}
        for key, value in changes.items():
            if value is not None and labels.get(key, value) != value:
                raise Conflict(
                    f"{target.kind.singular} {target.name!r} has label {key}={labels[key]}",
                    hint="change it with --overwrite",
                )
    patch = {"metadata": {"labels": changes}}
    _, changed = await client.patch(target.kind.resource, target.name, patch, namespace=scope)
    app.renderer.line(f"{target.kind.qualified}/{target.name} {'labeled' if changed else 'not labeled'}")
