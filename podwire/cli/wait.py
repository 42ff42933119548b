"""`podwire wait`: returns when objects are as wished, as kubectl's does.

In: objects and `--for`. Out: a line per object for which it holds; exit code 1 when the time is over first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from podwire.cli import options
from podwire.cli.app import App, pass_app, usage
from podwire.cli.lookup import require_choice, resolve
from podwire.cli.selection import parse_targets
from podwire.cli.waiting import parse_wish, wait_for
from podwire.errors import NotFound

if TYPE_CHECKING:
    from podwire.client import ControlClient


@click.command("wait")
@click.argument(
    "words", nargs=-1, required=True, metavar="TYPE NAME… | TYPE/NAME…", shell_complete=options.complete_targets
)
@click.option(
    "--for",
    "wish",
    required=True,
    metavar="WISH",
    help="condition=Ready[=false], delete, create or jsonpath='{.status.phase}'=Running",
)
@options.namespace_option
@options.selector_option
@click.option("--all", "everything", is_flag=True, help="All objects of the type in the namespace.")
@options.timeout_option("30s", "Give up after this long.")
@pass_app
def command(
    app: App, *, words: tuple[str, ...], wish: str, namespace: str, selector: str, everything: bool, timeout: str
) -> None:
    """Wait for objects: wait pod/web --for=condition=Ready --timeout=60s."""
    timeout_s = options.seconds(timeout)
    with usage():
        wanted, targets = parse_wish(wish), parse_targets(words)
    require_choice(targets, everything=everything, selector=selector)

    async def work(client: ControlClient) -> None:
        chosen = await resolve(client, targets, namespace=namespace, selector=selector)
        if not chosen and not wanted.absent:
            raise NotFound(f"no {targets[0].kind.resource} match")
        await wait_for(client, chosen, wanted, namespace=namespace, timeout_s=timeout_s)
        met = "deleted" if wanted.absent else "condition met"
        for target in chosen:
            app.renderer.line(f"{target.kind.qualified}/{target.name} {met}")

    app.run(work)
