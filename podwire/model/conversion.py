"""Type errors in documents, as sentences with the path of the wrong field.

In: msgspec's complaint and the document it is about. Out: InvalidInput such as
`spec.containers[0].ports[0].containerPort: "abc" is not an integer`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

import msgspec

from podwire.errors import InvalidInput

_CONVERSION = re.compile(r"(?P<what>.*?)(?: - at (?:key in )?`\$(?P<path>.*)`)?", re.DOTALL)
_TYPES = {
    "int": "an integer",
    "str": "a string",
    "bool": "true or false",
    "object": "a mapping",
    "array": "a list",
    "float": "a number",
    "null": "null",
}


def conversion_error(error: msgspec.ValidationError, doc: Mapping[str, Any]) -> InvalidInput:
    """msgspec's complaint as a sentence that starts with the path of the wrong field and quotes what stands there."""
    match = _CONVERSION.fullmatch(str(error))
    what, path = (match["what"], (match["path"] or "").lstrip(".")) if match else (str(error), "")
    if "[...]" in path:  # msgspec does not say which key of a mapping
        path = path.replace("[...]", "")
    expected = re.match(r"Expected `(.+?)`(?:, got `(.+?)`)?", what)
    missing = re.match(r"Object missing required field `(.+)`", what)
    unknown = re.match(r"Object contains unknown field `(.+)`", what)
    if missing:
        field = f"{path}.{missing[1]}".lstrip(".")
        return InvalidInput(f"{field}: is required", field=field)
    if unknown:
        field = f"{path}.{unknown[1]}".lstrip(".")
        return InvalidInput(f"{field}: there is no such field", field=field)
    if expected and expected[2]:
        kinds = [_TYPES.get(kind.strip(), kind) for kind in expected[1].split("|") if kind.strip() != "null"]
        value = _lookup(doc, path)
        shown = (
            msgspec.json.encode(value).decode()
            if isinstance(value, str | int | float | bool)
            else _TYPES.get(expected[2], expected[2])
        )
        return InvalidInput(f"{path}: {shown} is not {' or '.join(kinds)}", field=path)
    return InvalidInput(f"{path}: {what[:1].lower()}{what[1:]}" if path else what, field=path)


def _lookup(doc: Mapping[str, Any], path: str) -> object:
    """The value at a path such as `spec.containers[0].name`; None where there is none."""
    value: Any = doc
    for step in re.findall(r"[^.\[\]]+", path):
        if isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        elif isinstance(value, Mapping):
            value = value.get(step)
        else:
            return None
    return cast("object", value)
