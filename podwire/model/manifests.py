"""Manifests: YAML or JSON text to documents that know where they stand, and documents back to YAML.

In: text, files, directories, standard input. Out: `Manifest` values in reading order (`kind: List` is flattened), or InvalidInput
that names file, line and column. Only the shape is judged here (a mapping with apiVersion, kind and a name, no name twice in one
file); what the fields mean is the controller's to say, in one place, so that every client gets the same answer. The only module that
imports a YAML library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from podwire.errors import InvalidInput

STDIN = "-"
MAX_DEPTH = 100
MAX_NODES = 1_000_000
SUFFIXES = (".yaml", ".yml", ".json")

# The C loader is about eight times as fast; libyaml is in every wheel, and the Python one says the same where it is not.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One document and where it starts."""

    document: dict[str, Any]
    source: str
    line: int

    @property
    def where(self) -> str:
        """`file.yaml:12`, for messages."""
        return f"{self.source}:{self.line}"

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """apiVersion, kind, namespace and name: what makes two documents the same object."""
        metadata = self.document["metadata"]
        return (
            self.document["apiVersion"],
            self.document["kind"],
            metadata.get("namespace") or "",
            metadata.get("name") or "",
        )


def _build_loader() -> Any:
    """A safe loader that keeps timestamps as the text they are (Kubernetes' are strings) and refuses a key given twice."""

    class Loader(_Loader):  # type: ignore[misc]  # the base is chosen at run time
        pass

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in _Loader.yaml_implicit_resolvers.items()
    }

    def mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = loader.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is not a string: put it in quotes", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} stands twice in one mapping", key_node.start_mark
                )
            seen.add(key)
        loader.flatten_mapping(node)
        return {
            loader.construct_object(key, deep=True): loader.construct_object(value, deep=True)
            for key, value in node.value
        }

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    return Loader


_ManifestLoader = _build_loader()


def parse_manifests(text: str, source: str) -> list[Manifest]:
    """All documents of one file; JSON is YAML. Raises InvalidInput with file, line and column."""
    try:
        _refuse_bombs(text, source)
        found = list(_documents(text, source))
    except yaml.YAMLError as error:
        raise _not_yaml(error, source) from error
    _refuse_duplicates(found)
    return found


def load_manifests(sources: Sequence[str], *, read_stdin: Callable[[], str]) -> list[Manifest]:
    """Documents of files, directories (their .yaml, .yml and .json files, sorted) and `-`. Raises InvalidInput."""
    return [manifest for name, text in _texts(sources, read_stdin) for manifest in parse_manifests(text, name)]


def dump_yaml(value: Any) -> str:
    """A document as YAML, keys in their own order."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=120
    )
    return text


def _refuse_bombs(text: str, source: str) -> None:
    """Raises InvalidInput for text that would break its reader: libyaml's composer recurses in C until the stack ends, and aliases of
    aliases are small here and vast once written out.
    """
    sizes: dict[str, int] = {}  # of what an alias may stand for
    open_nodes: list[tuple[str | None, int]] = []  # anchor, and the size of what was written before it in its parent
    size = 0
    for event in yaml.parse(text, Loader=_Loader):
        match event:
            case yaml.CollectionStartEvent():
                open_nodes.append((event.anchor, size))
                size = 1
            case yaml.CollectionEndEvent():
                anchor, before = open_nodes.pop()
                sizes[anchor or ""] = size
                size += before
            case yaml.AliasEvent():
                size += sizes.get(event.anchor or "", 1)
            case yaml.ScalarEvent():
                size += 1
            case yaml.DocumentEndEvent():
                size = 0
        if len(open_nodes) > MAX_DEPTH or size > MAX_NODES:
            fault = (
                f"more than {MAX_DEPTH} levels deep"
                if len(open_nodes) > MAX_DEPTH
                else f"larger than {MAX_NODES} values"
            )
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise InvalidInput(f"{source}:{line}: a document is {fault}, which no manifest is")


def _documents(text: str, source: str) -> Iterator[Manifest]:
    loader = _ManifestLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            line = node.start_mark.line + 1
            value = loader.construct_document(node)
            if value is not None:
                yield from _flatten(value, source, line)
    finally:
        loader.dispose()


def _flatten(value: Any, source: str, line: int) -> Iterator[Manifest]:
    where = f"{source}:{line}"
    if not isinstance(value, dict):
        raise InvalidInput(f"{where}: a manifest must be a mapping with apiVersion and kind, not {_type_name(value)}")
    if str(value.get("kind", "")).endswith("List") and "items" in value:
        items = value["items"]
        if not isinstance(items, list):
            raise InvalidInput(f"{where}: items of kind {value['kind']} must be a list", field="items")
        for item in items:
            yield from _flatten(item, source, line)
        return
    for key in ("apiVersion", "kind"):
        if not isinstance(value.get(key), str) or not value[key]:
            raise InvalidInput(f"{where}: {key} is missing or not a string", field=key)
    metadata = value.get("metadata")
    if not isinstance(metadata, dict):
        raise InvalidInput(f"{where}: {value['kind']} has no metadata mapping", field="metadata")
    for key in ("name", "generateName", "namespace"):
        if not isinstance(metadata.get(key, ""), str):
            raise InvalidInput(
                f"{where}: metadata.{key} must be a string, not {_type_name(metadata[key])}",
                field=f"metadata.{key}",
                hint="put it in quotes",
            )
    if not metadata.get("name") and not metadata.get("generateName"):
        raise InvalidInput(f"{where}: {value['kind']} has no metadata.name", field="metadata.name")
    yield Manifest(value, source, line)


def _refuse_duplicates(manifests: Iterable[Manifest]) -> None:
    first: dict[tuple[str, str, str, str], Manifest] = {}
    for manifest in manifests:
        name = manifest.identity[3]
        if not name:
            continue
        earlier = first.setdefault(manifest.identity, manifest)
        if earlier is not manifest:
            raise InvalidInput(
                f"{manifest.where}: {manifest.identity[1]} {name!r} stands twice in this file, first at line {earlier.line}",
                field="metadata.name",
            )


def _texts(sources: Sequence[str], read_stdin: Callable[[], str]) -> Iterator[tuple[str, str]]:
    for source in sources:
        if source == STDIN:
            yield "standard input", read_stdin()
            continue
        path = Path(source)
        files = (
            sorted(entry for entry in path.iterdir() if entry.suffix in SUFFIXES and entry.is_file())
            if path.is_dir()
            else [path]
        )
        if not files:
            raise InvalidInput(f"directory {source} holds no {', '.join(SUFFIXES)} file")
        for file in files:
            yield str(file), _read(file)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InvalidInput(f"file {path} does not exist") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"file {path} is not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise InvalidInput(f"file {path} cannot be read: {error.strerror}") from error


def _not_yaml(error: yaml.YAMLError, source: str) -> InvalidInput:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not valid YAML"
    if mark is None:
        return InvalidInput(f"{source}: {problem}")
    return InvalidInput(f"{source}: line {mark.line + 1}, column {mark.column + 1}: {problem}")


def _type_name(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)
