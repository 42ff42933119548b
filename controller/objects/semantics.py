"""Semantics: what Kubernetes does to any document on its way in, whatever its kind. Pure: no store, no clock.

In: documents, the one stored now, and what the caller knows (time, uid). Out: the document to store, or an error with the path of the
wrong field. `registry.py` reads and writes around these; a kind's own rules are admission's. A stored document never holds
metadata.resourceVersion: that is the store's revision, stamped on at every read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from controller.objects.merge import without_nulls
from controller.objects.metadata import check_metadata
from controller.objects.resources import Resource, resource_for
from controller.store.base import Entry
from podwire.errors import Conflict, InvalidInput

Doc = dict[str, Any]

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
DEFAULT_GRACE_S = 30
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(type=dict[str, Any])
_KEPT_BY_UPDATE = (
    "uid",
    "name",
    "namespace",
    "generateName",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
)
_TAKEN_FROM_STATUS_WRITES = ("labels", "annotations", "finalizers")


@dataclass(frozen=True, slots=True)
class Reference:
    """Which object a document is about."""

    resource: Resource
    namespace: str
    name: str

    def __str__(self) -> str:
        return (
            f"{self.resource.singular} {self.namespace}/{self.name}"
            if self.namespace
            else f"{self.resource.singular} {self.name}"
        )

    def as_document(self) -> Doc:
        """Enough of a document to say which one is meant."""
        return {"kind": self.resource.kind, "metadata": {"name": self.name}}


def encode(doc: Mapping[str, Any], *, sorted_keys: bool = False) -> bytes:
    """The stored form; raises InvalidInput for what JSON cannot hold."""
    try:
        return msgspec.json.encode(doc, order="sorted") if sorted_keys else _encoder.encode(doc)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"the document cannot be written as JSON: {error}") from error


def raw(entry: Entry) -> Doc:
    """A fresh document of its own, as stored."""
    return _decoder.decode(entry.value)


def decode(entry: Entry) -> Doc:
    """The same, stamped with its resourceVersion."""
    return stamped(raw(entry), entry.revision)


def decode_value(value: bytes, revision: int) -> Doc:
    """The same for a watched change."""
    return stamped(_decoder.decode(value), revision)


def stamped(doc: Doc, revision: int) -> Doc:
    """Sets metadata.resourceVersion, in place."""
    doc["metadata"]["resourceVersion"] = str(revision)
    return doc


def timestamp(seconds: float) -> str:
    """RFC 3339 in UTC with whole seconds, as metav1.Time has it."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def identify(doc: Any, namespace: str) -> tuple[Reference, Doc]:
    """Which object a document means, and a copy of it to work on; its name is empty where generateName stands. Raises InvalidInput."""
    if not isinstance(doc, Mapping):
        raise InvalidInput("a document must be a mapping with apiVersion, kind and metadata")
    api_version, kind = doc.get("apiVersion"), doc.get("kind")
    for field, value in (("apiVersion", api_version), ("kind", kind)):
        if not isinstance(value, str) or not value:
            raise InvalidInput(f"{field}: is required and must be a string", field=field)
    resource = resource_for(str(api_version), str(kind))
    copy: Doc = without_nulls(doc)
    metadata = copy.setdefault("metadata", {})
    check_metadata(metadata, resource)
    if resource.namespaced:
        metadata.setdefault("namespace", namespace)
        if not metadata["namespace"]:
            metadata["namespace"] = namespace
    else:
        metadata.pop("namespace", None)
    return Reference(resource, metadata.get("namespace", ""), metadata.get("name", "")), copy


def created(reference: Reference, doc: Doc, *, uid: str, now: float) -> Doc:
    """What is stored for a new document, before admission; changes `doc`, which must be the caller's own."""
    metadata = doc["metadata"]
    for name in ("resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"):
        metadata.pop(name, None)
    metadata |= {"name": reference.name, "uid": uid, "creationTimestamp": timestamp(now)}
    resource = reference.resource
    if resource.has_status:
        metadata["generation"] = 1
        if not resource.keeps_status_on_create:
            doc.pop("status", None)
        if resource.initial_phase:
            doc["status"] = {"phase": resource.initial_phase}
    return doc


def check_preconditions(reference: Reference, metadata: Mapping[str, Any], entry: Entry, old: Doc) -> None:
    """A uid or resourceVersion that the caller gave must be the stored one; raises Conflict."""
    uid, version = metadata.get("uid"), metadata.get("resourceVersion")
    if uid and uid != old["metadata"]["uid"]:
        raise Conflict(f"{reference} has uid {old['metadata']['uid']}, not {uid}: it is another object of that name")
    if version and version != str(entry.revision):
        raise Conflict(f"{reference} has changed: it is at resourceVersion {entry.revision}, not {version}")


def updated(reference: Reference, old: Doc, doc: Doc) -> Doc:
    """What an update stores, before admission: identity, life cycle and status stay as they are. Changes `doc`."""
    metadata, before = doc["metadata"], old["metadata"]
    metadata.pop("resourceVersion", None)
    _keep(metadata, before, _KEPT_BY_UPDATE)
    if "deletionTimestamp" in before and set(metadata.get("finalizers", ())) - set(before.get("finalizers", ())):
        raise InvalidInput(
            f"metadata.finalizers: {reference} is being deleted: finalizers can only be removed",
            field="metadata.finalizers",
        )
    if reference.resource.has_status:
        _keep(doc, old, ("status",))
    return doc


def status_updated(old: Doc, doc: Doc) -> Doc:
    """What a status update stores: the stored document with the new status. Labels, annotations and finalizers follow too where the
    writer gave them, as the API server has it (flannel publishes its annotations so). Changes neither.
    """
    given = {name: value for name, value in doc["metadata"].items() if name in _TAKEN_FROM_STATUS_WRITES}
    new = {**old, "metadata": {**old["metadata"], **given}}
    new["metadata"].pop("resourceVersion", None)
    if "status" in doc:
        new["status"] = doc["status"]
    return new


def _keep(new: Doc, old: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if name in old:
            new[name] = old[name]
        else:
            new.pop(name, None)


def raise_generation(reference: Reference, old: Doc, new: Doc) -> None:
    """Raises metadata.generation when anything but metadata and status differs; in place."""
    if reference.resource.has_status and any(
        old.get(name) != new.get(name) for name in old.keys() | new.keys() if name not in ("metadata", "status")
    ):
        new["metadata"]["generation"] = old["metadata"].get("generation", 0) + 1


def deleted(reference: Reference, old: Doc, *, grace_s: int | None, now: float) -> Doc | None:
    """What a deletion stores: the document marked as going, or None when nothing holds it back and it is removed at once.

    A pod on a node goes when its agent has confirmed that it is gone; an object with finalizers when the last of them is removed;
    a namespace when it is empty.
    """
    metadata = old["metadata"]
    waits_for_node = reference.resource.name == "pods" and bool(old.get("spec", {}).get("nodeName"))
    if not waits_for_node:
        grace = 0
    elif grace_s is None:
        grace = int(old["spec"].get("terminationGracePeriodSeconds", DEFAULT_GRACE_S))
    else:
        grace = max(0, grace_s)
    if "deletionTimestamp" in metadata:  # again: the grace period may only become shorter
        if grace < metadata.get("deletionGracePeriodSeconds", 0):
            new = _marked(old, grace, now)
            return None if is_finished(reference, new) else new
        return None if grace == 0 and is_finished(reference, old) else old
    new = _marked(old, grace, now)
    if reference.resource.name == "namespaces":
        new["status"] = {**new.get("status", {}), "phase": "Terminating"}
        return new
    return None if is_finished(reference, new) else new


def _marked(old: Doc, grace: int, now: float) -> Doc:
    going = {"deletionTimestamp": timestamp(now + grace), "deletionGracePeriodSeconds": grace}
    return {**old, "metadata": {**old["metadata"], **going}}


def removed(old: Doc, *, now: float) -> Doc | None:
    """What the end of a deletion stores, once the node or the emptied namespace let go: None, unless finalizers still hold it."""
    if old["metadata"].get("finalizers"):
        return old if old["metadata"].get("deletionGracePeriodSeconds") == 0 else _marked(old, 0, now)
    return None


def is_finished(reference: Reference, doc: Doc) -> bool:
    """Whether a document that is being deleted is held by nothing any more. Namespaces are emptied and removed by `gc.py`."""
    metadata = doc["metadata"]
    return (
        "deletionTimestamp" in metadata
        and not metadata.get("finalizers")
        and metadata.get("deletionGracePeriodSeconds", 0) == 0
        and reference.resource.name != "namespaces"
    )
