"""`podwire delete`: removes objects by name, by label or by manifest.

In: kinds and names, or files. Out: a line per object; unless told otherwise it returns when the objects are really gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from podwire.cli import options
from podwire.cli.app import DEFAULT_NAMESPACE, App, pass_app, read_stdin, usage
from podwire.cli.lookup import require_choice, resolve, scope_of
from podwire.cli.selection import Target, parse_targets
from podwire.errors import InvalidInput, NotFound
from podwire.model.kinds import kind_of

if TYPE_CHECKING:
    from podwire.client import ControlClient

Victim = tuple[Target, str]  # with its namespace


@click.command("delete")
@click.argument("words", nargs=-1, metavar="[TYPE NAME… | TYPE/NAME…]", shell_complete=options.complete_targets)
@options.filename_option
@options.namespace_option
@options.selector_option
@click.option("--all", "everything", is_flag=True, help="All objects of the type in the namespace.")
@click.option(
    "--grace-period", type=click.IntRange(0), help="Seconds that containers get to end; the pod's own by default."
)
@click.option("--force", is_flag=True, help="As --grace-period=0.")
@click.option("--ignore-not-found", is_flag=True, help="No error for what is not there.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Return when the objects are gone.")
@options.timeout_option("60s", "How long to wait for that.")
@pass_app
def command(
    app: App,
    *,
    words: tuple[str, ...],
    files: tuple[str, ...],
    namespace: str,
    selector: str,
    everything: bool,
    grace_period: int | None,
    force: bool,
    ignore_not_found: bool,
    wait: bool,
    timeout: str,
) -> None:
    """Remove objects: delete pod web, delete -f web.yaml, delete pods --all."""
    timeout_s = options.seconds(timeout)
    grace_s = 0 if force else grace_period
    named = _from_files(files, namespace) if files else []
    with usage():
        targets = parse_targets(words) if words or not files else []
    require_choice(targets, everything=everything, selector=selector)

    async def work(client: ControlClient) -> None:
        chosen = await resolve(client, targets, namespace=namespace, selector=selector)
        victims = named + [(target, scope_of(target, namespace)) for target in chosen]
        gone: list[Victim] = []
        for target, scope in victims:
            try:
                await client.delete(target.kind.resource, target.name, namespace=scope, grace_s=grace_s)
            except NotFound:
                if not ignore_not_found:
                    raise
                continue
            gone.append((target, scope))
            app.renderer.line(f'{target.kind.qualified} "{target.name}" deleted')
        if not victims:
            app.renderer.note("No objects found.")
        if wait:
            await _await_gone(client, gone, timeout_s)

    app.run(work)


def _from_files(files: tuple[str, ...], namespace: str) -> list[Victim]:
    from podwire.model.manifests import load_manifests

    victims = []
    for manifest in load_manifests(files, read_stdin=read_stdin):
        kind = kind_of(manifest.document)
        if kind is None:
            raise InvalidInput(f"{manifest.where}: kind {manifest.document['kind']!r} is not known to this cluster")
        scope = (manifest.document["metadata"].get("namespace") or namespace) if kind.namespaced else ""
        victims.append((Target(kind, manifest.document["metadata"]["name"]), scope))
    return victims[::-1]  # what was made last goes first: objects before the namespace that holds them


async def _await_gone(client: ControlClient, victims: list[Victim], timeout_s: float) -> None:
    from podwire.cli.waiting import parse_wish, wait_for

    for scope in {scope for _, scope in victims}:
        targets = [target for target, its in victims if its == scope]
        await wait_for(client, targets, parse_wish("delete"), namespace=scope or DEFAULT_NAMESPACE, timeout_s=timeout_s)
