"""The help of every verb, against the page that stands in `cli_help.txt`: flags are an interface, and change only on purpose.

After a change that is meant, write the page anew: `PODWIRE_WRITE_GOLDEN=1 pytest tests/unit/test_cli_help.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click

from podwire.cli.main import cli

GOLDEN = Path(__file__).with_name("cli_help.txt")
WIDTH = 100


def pages(command: click.Command, parent: click.Context | None, name: str) -> Iterator[str]:
    """A command's page and those of its subcommands."""
    # With the command's own settings, as when it is run: click keeps the help option of the first context that asks for it.
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, parent=parent, info_name=name, **settings)
    yield f"$ {context.command_path} --help\n{command.get_help(context)}\n"
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            found = command.get_command(context, each)
            assert found is not None
            yield from pages(found, context, each)


def test_help_is_what_it_was() -> None:
    text = "\n".join(pages(cli, None, "podwire"))
    if os.environ.get("PODWIRE_WRITE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()
