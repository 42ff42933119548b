"""`podwire version`: of this program, and of the controller where one answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from podwire.cli import options
from podwire.cli.app import App, pass_app
from podwire.cli.output import Output, print_structured
from podwire.errors import PodwireError

if TYPE_CHECKING:
    from podwire.client import ControlClient


@click.command("version")
@click.option("--client", "client_only", is_flag=True, help="Do not ask the controller.")
@options.output_option()
@pass_app
def command(app: App, *, client_only: bool, output: Output) -> None:
    """Show the versions of this program and of the controller."""
    from importlib.metadata import version

    versions = {"client": version("podwire")}
    if not client_only:

        async def work(client: ControlClient) -> str:
            return (await client.status()).version

        try:
            versions["controller"] = app.run(work)
        except PodwireError:
            versions["controller"] = ""
    if not output.tabular:
        print_structured(app.renderer, output, versions)
        return
    app.renderer.line(f"podwire {versions['client']}")
    if not client_only:
        app.renderer.line(f"controller {versions['controller'] or 'not reachable'}")
