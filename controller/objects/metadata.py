"""Metadata: the checks that every document passes, whatever its kind.

In: a document's `metadata` as the user wrote it. Out: nothing, or InvalidInput with the path of the wrong field.
"""

from __future__ import annotations

from typing import Any

from controller.objects.resources import Resource
from podwire.errors import InvalidInput
from podwire.model.names import dns_label, dns_subdomain, label_key, label_value

ANNOTATIONS_LIMIT_BYTES = 256 * 1024  # Kubernetes' own: TotalAnnotationSizeLimitB
_STRINGS = ("name", "generateName", "namespace", "uid", "resourceVersion")
_OWNER_FIELDS = ("apiVersion", "kind", "name", "uid")


def check_metadata(metadata: Any, resource: Resource) -> None:
    """Types and grammars; raises InvalidInput."""
    if not isinstance(metadata, dict):
        raise InvalidInput("metadata: must be a mapping", field="metadata")
    for name in _STRINGS:
        if name in metadata and not isinstance(metadata[name], str):
            raise _not_a_string(f"metadata.{name}", metadata[name])
    _check_name(metadata, resource)
    if metadata.get("namespace"):
        dns_label(metadata["namespace"], "metadata.namespace")
    for key, value in _string_map(metadata, "labels").items():
        label_value(value, f"metadata.labels[{label_key(key, 'metadata.labels')}]")
    size = 0
    for key, value in _string_map(metadata, "annotations").items():
        label_key(key, "metadata.annotations")
        size += len(key) + len(value)
    if size > ANNOTATIONS_LIMIT_BYTES:
        raise InvalidInput(
            f"metadata.annotations: {size} bytes are more than the {ANNOTATIONS_LIMIT_BYTES} allowed",
            field="metadata.annotations",
        )
    _check_lists(metadata)


def _check_name(metadata: dict[str, Any], resource: Resource) -> None:
    check = dns_label if resource.name_is_label else dns_subdomain
    if name := metadata.get("name"):
        check(name, "metadata.name")
    elif prefix := metadata.get("generateName"):
        check(f"{prefix[:58]}x", "metadata.generateName")  # as it will be: a prefix may end with a dash
    else:
        raise InvalidInput("metadata.name: is required (or metadata.generateName)", field="metadata.name")


def _string_map(metadata: dict[str, Any], name: str) -> dict[str, str]:
    value = metadata.get(name, {})
    if not isinstance(value, dict):
        raise InvalidInput(f"metadata.{name}: must be a mapping", field=f"metadata.{name}")
    for key, under in value.items():
        if not isinstance(key, str) or not isinstance(under, str):
            raise _not_a_string(f"metadata.{name}[{key}]", under if isinstance(key, str) else key)
    return value


def _check_lists(metadata: dict[str, Any]) -> None:
    for name in ("finalizers", "ownerReferences"):
        if not isinstance(metadata.get(name, []), list):
            raise InvalidInput(f"metadata.{name}: must be a list", field=f"metadata.{name}")
    for index, finalizer in enumerate(metadata.get("finalizers", ())):
        field = f"metadata.finalizers[{index}]"
        if not isinstance(finalizer, str):
            raise _not_a_string(field, finalizer)
        label_key(finalizer, field)
    for index, owner in enumerate(metadata.get("ownerReferences", ())):
        for name in _OWNER_FIELDS:
            field = f"metadata.ownerReferences[{index}].{name}"
            if not isinstance(owner, dict) or not owner.get(name) or not isinstance(owner[name], str):
                raise InvalidInput(f"{field}: is required and must be a string", field=field)


def _not_a_string(field: str, value: Any) -> InvalidInput:
    return InvalidInput(f"{field}: must be a string, not {value!r}", field=field, hint=f'put it in quotes: "{value}"')
