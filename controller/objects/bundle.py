"""Bundles: several documents handed in at once. Pure.

In: documents as a file has them. Out: the same without Lists around them, each told apart from the others, and errors that say which
document they are about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from controller.objects.semantics import identify
from podwire.errors import InvalidInput


def without_lists(docs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Every `kind: List` (and PodList, …) replaced by its items."""
    flat: list[Mapping[str, Any]] = []
    for doc in docs:
        items = doc.get("items") if isinstance(doc, Mapping) else None
        if isinstance(items, list) and str(doc.get("kind", "")).endswith("List"):
            flat.extend(without_lists(items))
        else:
            flat.append(doc)
    return flat


def require_distinct(docs: Sequence[Mapping[str, Any]], namespace: str) -> None:
    """No two documents may be the same object; raises InvalidInput, for this and for a document that names none."""
    seen: dict[str, int] = {}
    for index, doc in enumerate(docs):
        with located(doc, index):
            reference, _ = identify(doc, namespace)
        first = seen.setdefault(str(reference), index)
        if first != index and reference.name:
            raise InvalidInput(f"documents {first + 1} and {index + 1} are both {reference}", field="metadata.name")


@contextmanager
def located(doc: Any, index: int = 0) -> Iterator[None]:
    """Puts in front of what is wrong which document it is wrong in."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"{_title(doc, index)}: {error.message}", field=error.field, hint=error.hint) from error


def _title(doc: Any, index: int) -> str:
    if isinstance(doc, Mapping) and isinstance(metadata := doc.get("metadata"), Mapping):
        name = metadata.get("name") or metadata.get("generateName")
        kind = doc.get("kind")
        if isinstance(kind, str) and isinstance(name, str):
            return f"{kind} {name}"
    return f"document {index + 1}"
