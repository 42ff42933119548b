"""`podwire get`: lists objects, once or as they change.

In: kinds and names, a selector, a format. Out: tables or documents on standard output. With `-w` each change is a row (or a document)
of its own as it comes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from podwire.cli import options, tables
from podwire.cli.app import App, pass_app, usage
from podwire.cli.lookup import scope_of
from podwire.cli.output import Output, listed, print_structured, print_tables
from podwire.cli.selection import Target, parse_targets
from podwire.errors import Expired
from podwire.model.kinds import Kind

if TYPE_CHECKING:
    from podwire.client import ControlClient, Event

Found = list[tuple[Kind, list[dict[str, Any]]]]


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for."""

    targets: Sequence[Target]
    namespace: str  # empty: all
    selector: str
    field_selector: str
    output: Output
    labels: bool

    @property
    def all_namespaces(self) -> bool:
        """Whether rows must name their namespace."""
        return not self.namespace


@click.command("get")
@click.argument("words", nargs=-1, metavar="TYPE[,TYPE] [NAME…] | TYPE/NAME…", shell_complete=options.complete_targets)
@options.namespace_option
@options.all_namespaces_option
@options.selector_option
@click.option(
    "--field-selector", default="", metavar="FIELDS", help="Only objects with these fields: status.phase=Running"
)
@options.output_option()
@click.option("-w", "--watch", is_flag=True, help="Go on with every change.")
@click.option("--show-labels", is_flag=True, help="A column with the labels.")
@pass_app
def command(
    app: App,
    *,
    words: tuple[str, ...],
    namespace: str,
    all_namespaces: bool,
    selector: str,
    field_selector: str,
    output: Output,
    watch: bool,
    show_labels: bool,
) -> None:
    """Show objects: get pods -o wide, get po,no -A, get pod/web -o json."""
    with usage():
        targets = parse_targets(words)
    if watch and len(targets) != 1:
        raise click.UsageError("--watch takes one type, or one object")
    query = Query(targets, "" if all_namespaces else namespace, selector, field_selector, output, show_labels)
    app.run(lambda client: _watch(app, client, query) if watch else _get(app, client, query))


async def fetch(client: ControlClient, query: Query) -> Found:
    """Documents by kind, in the order asked for; raises NotFound for a name that is not there."""
    found: Found = []
    for target in query.targets:
        namespace = scope_of(target, query.namespace)
        if target.name:
            documents = [await client.get(target.kind.resource, target.name, namespace=namespace)]
        else:
            answer = await client.list(
                target.kind.resource,
                namespace=namespace,
                label_selector=query.selector,
                field_selector=query.field_selector,
            )
            documents = answer.documents
            if target.kind.resource == "events":
                documents.sort(key=tables.event_time)
        if found and found[-1][0] == target.kind:
            found[-1][1].extend(documents)
        else:
            found.append((target.kind, documents))
    return found


async def _get(app: App, client: ControlClient, query: Query) -> None:
    found = await fetch(client, query)
    documents = [document for _, group in found for document in group]
    if not query.output.tabular:
        kinds = [kind for kind, group in found for _ in group]
        single = len(documents) == 1 and len(query.targets) == 1 and query.targets[0].name
        print_structured(app.renderer, query.output, documents[0] if single else listed(documents), kinds)
        return
    if not documents:
        where = f" in namespace {query.namespace!r}" if query.namespace and query.targets[0].kind.namespaced else ""
        app.renderer.note(f"No {', '.join(kind.resource for kind, _ in found)} found{where}.")
        return
    groups = [(kind, group) for kind, group in found if group]
    print_tables(app.renderer, query.output, groups, now=app.now, namespaces=query.all_namespaces, labels=query.labels)


async def _watch(app: App, client: ControlClient, query: Query) -> None:
    show = _Rows(app, query)
    while True:
        try:
            async for event in _events(client, query):
                show.event(event)
        except Expired:
            app.renderer.note("The watch fell behind; starting again with what is there now.")
        else:
            return


async def _events(client: ControlClient, query: Query) -> AsyncIterator[Event]:
    target = query.targets[0]
    fields = [part for part in (query.field_selector, f"metadata.name={target.name}" if target.name else "") if part]
    async for event in client.watch(
        target.kind.resource,
        namespace=scope_of(target, query.namespace),
        label_selector=query.selector,
        field_selector=",".join(fields),
    ):
        if event.type != "BOOKMARK":
            yield event


class _Rows:
    """Prints each event of a watch; the header once, columns as wide as they have been."""

    def __init__(self, app: App, query: Query) -> None:
        self._app = app
        self._query = query
        self._kind = query.targets[0].kind
        self._widths: tuple[int, ...] = ()

    def event(self, event: Event) -> None:
        """One change."""
        if not self._query.output.tabular:
            print_structured(self._app.renderer, self._query.output, event.document, [self._kind])
            return
        rows = tables.table(
            self._kind.resource,
            [event.document],
            now=self._app.now,
            wide=self._query.output.form == "wide",
            namespaces=self._query.all_namespaces and self._kind.namespaced,
            labels=self._query.labels,
        )
        self._widths = self._app.renderer.table(rows, header=not self._widths, widths=self._widths)
