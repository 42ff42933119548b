"""`podwire exec`: a command in a pod's namespaces.

In: a pod and a command. Out: its output as it comes, and its exit code as ours: 127 where there is no such command, 126 where it may
not run. With `-t` the terminal is raw while it runs and its size follows the window.
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


@click.command("exec")
@click.argument("pod", shell_complete=options.complete_pods)
@click.argument("argv", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- CMD…")
@options.namespace_option
@click.option("-c", "--container", default="", help="Which container; the first by default.")
@click.option("-i", "--stdin", "interactive", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@pass_app
def command(
    app: App, *, pod: str, argv: tuple[str, ...], namespace: str, container: str, interactive: bool, tty: bool
) -> int:
    """Run a command in a pod: exec web -- curl -s localhost:8080/hostname."""
    with usage():
        target = parse_target([pod])
    if tty and not sys.stdin.isatty():
        app.renderer.note("Standard input is not a terminal: the command gets none.")
        tty = False

    async def work(client: ControlClient) -> int:
        from podwire.api.v1.node_agent_pb2 import ExecStart
        from podwire.cli.streams import NotStarted, raw_terminal, run, terminal_size

        start = ExecStart(
            namespace=namespace, pod=target.name, container=container, argv=argv, stdin=interactive, tty=tty
        )
        if tty:
            start.size.CopyFrom(terminal_size())
        try:
            with raw_terminal(enabled=tty and interactive):
                return await run(client, start, interactive=interactive, tty=tty)
        except NotStarted as error:
            app.renderer.error(error.message, error.hint)
            return error.exit_code

    return app.run(work)
