"""`podwire apply`: makes the cluster hold what manifests say.

In: manifests. Out: a line per object (created, configured, unchanged), or one error and nothing applied: the controller checks all
documents before it writes the first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from podwire.cli import options
from podwire.cli.app import App, pass_app, read_stdin
from podwire.cli.output import Output, listed, print_structured
from podwire.cli.selection import Target
from podwire.errors import InvalidInput, PodwireError
from podwire.model.kinds import Kind, kind_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from podwire.client import Applied, ControlClient
    from podwire.model.manifests import Manifest


@click.command("apply")
@options.filename_option
@options.namespace_option
@click.option("--dry-run", is_flag=True, help="Say what would happen, and change nothing.")
@click.option("--force", is_flag=True, help="Take fields that something else has set.")
@click.option("--wait", "wait", is_flag=True, help="Return when all pods are ready.")
@options.timeout_option("60s", "How long --wait waits.")
@options.output_option()
@pass_app
def command(
    app: App,
    *,
    files: tuple[str, ...],
    namespace: str,
    dry_run: bool,
    force: bool,
    wait: bool,
    timeout: str,
    output: Output,
) -> None:
    """Create or change objects from manifests: apply -f web.yaml."""
    if not files:
        raise click.UsageError("nothing to apply: give -f FILE, a directory, or - for standard input")
    from podwire.model.manifests import load_manifests

    timeout_s = options.seconds(timeout)
    manifests = load_manifests(files, read_stdin=read_stdin)
    if not manifests:
        raise InvalidInput(f"there is no document in {', '.join(files)}")

    async def work(client: ControlClient) -> None:
        applied = await apply_manifests(client, manifests, namespace=namespace, dry_run=dry_run, force=force)
        _show(app, applied, output, dry_run=dry_run)
        if wait and not dry_run:
            with app.renderer.stage("Waiting until the pods are ready"):
                await wait_ready(client, applied, timeout_s)

    app.run(work)


async def apply_manifests(
    client: ControlClient, manifests: Sequence[Manifest], *, namespace: str, dry_run: bool = False, force: bool = False
) -> list[Applied]:
    """Applies all or none; an error that names a document by its place in the list is given its place in the file."""
    try:
        return await client.apply(
            [manifest.document for manifest in manifests], namespace=namespace, dry_run=dry_run, force=force
        )
    except InvalidInput as error:
        if len({manifest.source for manifest in manifests}) == 1 and manifests[0].source not in error.message:
            raise InvalidInput(f"{manifests[0].source}: {error.message}", field=error.field, hint=error.hint) from error
        raise


async def wait_ready(client: ControlClient, applied: Sequence[Applied], timeout_s: float) -> None:
    """Waits for every pod among what was applied."""
    from podwire.cli.waiting import parse_wish, wait_for

    by_namespace: dict[str, list[Target]] = {}
    for one in applied:
        kind = kind_of(one.document)
        if kind is not None and kind.resource == "pods":
            metadata = one.document["metadata"]
            by_namespace.setdefault(metadata["namespace"], []).append(Target(kind, metadata["name"]))
    for namespace, targets in by_namespace.items():
        await wait_for(client, targets, parse_wish("condition=Ready"), namespace=namespace, timeout_s=timeout_s)


def _show(app: App, applied: Sequence[Applied], output: Output, *, dry_run: bool) -> None:
    kinds = [_kind(one) for one in applied]
    if not output.tabular:
        documents = [one.document for one in applied]
        print_structured(app.renderer, output, documents[0] if len(documents) == 1 else listed(documents), kinds)
        return
    suffix = " (dry run)" if dry_run else ""
    for one, kind in zip(applied, kinds, strict=True):
        app.renderer.line(f"{kind.qualified}/{one.document['metadata']['name']} {one.outcome}{suffix}")


def _kind(applied: Applied) -> Kind:
    kind = kind_of(applied.document)
    if kind is None:
        raise PodwireError(f"the controller applied a {applied.document.get('kind')} that this version does not know")
    return kind
