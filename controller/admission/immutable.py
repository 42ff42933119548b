"""Fields that stay as they were made.

In: two documents' parts. Out: the path of the first difference, so that the refusal can name it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def first_difference(old: Any, new: Any, path: str) -> str:
    """The path where two values first differ, or an empty string where they are equal."""
    if old == new:
        return ""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            found = first_difference(old.get(key), new.get(key), f"{path}.{key}")
            if found:
                return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (one, other) in enumerate(zip(old, new, strict=True)):
            found = first_difference(one, other, f"{path}[{index}]")
            if found:
                return found
    return path
