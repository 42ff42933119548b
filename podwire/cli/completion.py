"""`podwire completion SHELL`: a script that completes verbs, flags and live names."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from podwire.cli.app import App, pass_app

VARIABLE = "_PODWIRE_COMPLETE"


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="bash|zsh|fish")
@pass_app
def command(app: App, *, shell: str) -> None:
    """Print a completion script: source <(podwire completion bash)."""
    found = get_completion_class(shell)
    root = click.get_current_context().find_root().command
    if found is None:
        raise click.UsageError(f"there is no completion for {shell}")
    # The script itself, not `.source()` of a subclass that asks the shell for its version: it must print anywhere.
    complete = found(root, {}, "podwire", VARIABLE)
    app.renderer.raw(complete.source_template % complete.source_vars())
