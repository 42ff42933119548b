"""The program `podwire`: its verbs, its global flags, and what an exit code means.

In: a command line. Out: a verb's module, imported only when it is named (so that `--help` and completion are quick), and an exit code:
0 done, 1 failed, 2 wrong usage, 3 cluster unreachable. Every verb is a file of this package with a `command`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from podwire.cli.app import DEFAULT_CLUSTER, App
from podwire.errors import PodwireError, Unreachable

VERBS: dict[str, str] = {
    "up": "up",
    "down": "down",
    "status": "status",
    "doctor": "doctor",
    "apply": "apply",
    "delete": "delete",
    "get": "get",
    "describe": "describe",
    "run": "run",
    "exec": "exec",
    "logs": "logs",
    "label": "label",
    "wait": "wait",
    "node": "node",
    "test": "test",
    "version": "version",
    "completion": "completion",
}
ALIASES = {"deploy": "up", "destroy": "down"}
EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE, EXIT_INTERRUPTED = 1, 2, 3, 130


class LazyGroup(click.Group):
    """A group whose commands are modules, imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = VERBS.get(ALIASES.get(cmd_name, cmd_name))
        if module is None:
            return None
        found: click.Command = importlib.import_module(f"podwire.cli.{module}").command
        return found


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--cluster",
    envvar="PODWIRE_CLUSTER",
    default=DEFAULT_CLUSTER,
    show_default=True,
    metavar="NAME",
    help="Which cluster; several live side by side. [env: PODWIRE_CLUSTER]",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress and no hints.")
@click.pass_context
def cli(ctx: click.Context, cluster: str, quiet: bool) -> None:
    """A Kubernetes cluster's network without Kubernetes: real packets, many nodes, in seconds."""
    from podwire.cli.app import usage
    from podwire.model.names import dns_label

    with usage():
        dns_label(cluster, "--cluster")
    app = ctx.ensure_object(App)
    app.cluster = cluster
    app.quiet = quiet


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program and exits."""
    sys.exit(run(argv))


def run(argv: Sequence[str] | None = None, app: App | None = None) -> int:
    """Runs one command line and returns its exit code; every error has become a sentence on standard error."""
    app = app or App()
    try:
        result: Any = cli.main(
            args=list(argv) if argv is not None else None, prog_name="podwire", standalone_mode=False, obj=app
        )
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:  # a group without its verb
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "podwire"
        app.renderer.error(error.format_message(), hint=f"see: {where} --help")
        return EXIT_USAGE
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except Unreachable as error:
        app.renderer.error(error.message, error.hint)
        return EXIT_UNREACHABLE
    except PodwireError as error:
        app.renderer.error(error.message, error.hint)
        return EXIT_FAILED
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:  # a disk that is full, a directory that is someone else's
        app.renderer.error(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
        return EXIT_FAILED


if __name__ == "__main__":
    main()
