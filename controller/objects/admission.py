"""Admission's hook: what a kind's own rules get to see, and may change, before a document is stored.

In: the document as merged and checked by the general rules (`semantics.py`). Out: defaults set in `request.new`, or InvalidInput with
the path of the wrong field. The functions themselves, one per resource, live above this package and are handed to `Registry`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from controller.objects.resources import Resource

Doc = dict[str, Any]


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """One create or update. Status updates and deletions are not asked about."""

    resource: Resource
    operation: Literal["CREATE", "UPDATE"]
    new: Doc
    """What will be stored: mutable."""
    old: Doc | None
    """What is stored now, for rules on fields that must not change; None for CREATE. Not to be changed."""
    namespace: str
    name: str


Admit = Callable[[AdmissionRequest], None]
