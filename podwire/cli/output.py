"""`-o`: documents in the form that was asked for.

In: the flag's text, documents, and what they are. Out: text on standard output, and nothing else there. Tables are made by
`tables.py`; JSON of several documents is a `kind: List`, as kubectl has it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from podwire.cli import jsonpath
from podwire.cli.render import Renderer
from podwire.cli.tables import Table, table
from podwire.errors import InvalidInput
from podwire.model.kinds import Kind

FORMS = ("table", "wide", "json", "yaml", "name", "jsonpath=TEMPLATE", "custom-columns=TITLE:PATH,…")


@dataclass(frozen=True, slots=True)
class Output:
    """A parsed `-o`: the form, and the template where it takes one."""

    form: str = "table"
    template: str = ""

    @property
    def tabular(self) -> bool:
        """Whether documents become rows of the kind's own table."""
        return self.form in ("table", "wide")


def parse_output(text: str) -> Output:
    """Reads the flag; raises InvalidInput that lists the forms."""
    form, _, template = text.partition("=")
    if form in ("table", "wide", "json", "yaml", "name") and not template:
        return Output(form)
    if form == "jsonpath" and template:
        jsonpath.parse(template)
        return Output(form, template)
    if form == "custom-columns" and template:
        _custom_columns(template)
        return Output(form, template)
    raise InvalidInput(f"output format {text!r} is not known", hint=f"use one of: {', '.join(FORMS)}")


def listed(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several documents as one."""
    return {"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": list(documents)}


def to_json(value: Any) -> str:
    """JSON as kubectl indents it."""
    return json.dumps(value, indent=4, ensure_ascii=False)


def print_structured(renderer: Renderer, output: Output, value: dict[str, Any], kinds: Sequence[Kind] = ()) -> None:
    """One document, or a List, in any form but a table."""
    match output.form:
        case "json":
            renderer.line(to_json(value))
        case "yaml":
            from podwire.model.manifests import dump_yaml

            renderer.raw(dump_yaml(value))
        case "jsonpath":
            text = jsonpath.render(output.template, value)
            renderer.raw(text if text.endswith("\n") or not text else text + "\n")
        case "custom-columns":
            renderer.table(_custom_table(output.template, _items(value)))
        case _:
            for document, kind in zip(_items(value), kinds, strict=True):
                renderer.line(f"{kind.qualified}/{document['metadata']['name']}")


def print_tables(
    renderer: Renderer,
    output: Output,
    groups: Sequence[tuple[Kind, Sequence[dict[str, Any]]]],
    *,
    now: float,
    namespaces: bool = False,
    labels: bool = False,
) -> None:
    """Documents by kind, each kind a table of its own; names carry the kind when there are several."""
    for number, (kind, documents) in enumerate(groups):
        if number:
            renderer.line("")
        rows = table(
            kind.resource,
            documents,
            now=now,
            wide=output.form == "wide",
            namespaces=namespaces and kind.namespaced,
            labels=labels,
            prefix=f"{kind.qualified}/" if len(groups) > 1 else "",
        )
        renderer.table(rows)


def _items(value: dict[str, Any]) -> list[dict[str, Any]]:
    return value["items"] if value.get("kind") == "List" and "items" in value else [value]


def _custom_columns(template: str) -> list[tuple[str, str]]:
    columns = []
    for part in template.split(","):
        title, colon, path = part.partition(":")
        if not colon or not title or not path:
            raise InvalidInput(f"custom column {part!r} is not TITLE:PATH", hint="for example NAME:.metadata.name")
        jsonpath.parse(path)
        columns.append((title, path))
    return columns


def _custom_table(template: str, documents: Sequence[dict[str, Any]]) -> Table:
    columns = _custom_columns(template)
    rows = tuple(
        tuple(",".join(_plain(found) for found in jsonpath.find(path, document)) or "<none>" for _, path in columns)
        for document in documents
    )
    return Table(tuple(title for title, _ in columns), rows)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)
