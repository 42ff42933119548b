"""`podwire logs`: a container's output.

In: a pod. Out: its log as it was written, to standard output, byte for byte.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from podwire.cli import options
from podwire.cli.app import App, pass_app, usage
from podwire.cli.selection import parse_target

if TYPE_CHECKING:
    from podwire.client import ControlClient


@click.command("logs")
@click.argument("pod", shell_complete=options.complete_pods)
@options.namespace_option
@click.option("-c", "--container", default="", help="Which container; the first by default.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@click.option("-p", "--previous", is_flag=True, help="Of the run before the current one.")
@click.option("--tail", "tail_lines", type=int, default=-1, help="Only the last lines; -1 for all.")
@click.option("--timestamps", is_flag=True, help="The time before each line.")
@pass_app
def command(
    app: App,
    *,
    pod: str,
    namespace: str,
    container: str,
    follow: bool,
    previous: bool,
    tail_lines: int,
    timestamps: bool,
) -> None:
    """Show what a container wrote: logs web -f."""
    with usage():
        target = parse_target([pod])

    async def work(client: ControlClient) -> None:
        pieces = client.logs(
            target.name,
            namespace=namespace,
            container=container,
            follow=follow,
            previous=previous,
            tail_lines=tail_lines,
            timestamps=timestamps,
        )
        async for piece in pieces:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()

    app.run(work)
