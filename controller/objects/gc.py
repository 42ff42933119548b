"""Garbage: what should be deleted because of what else is gone. Pure.

In: all objects at one revision. Out: deletions, each bound to the uid that was judged, so that a namesake made since is left alone.
The reconcile loop asks after every change and lets `Registry.collect` carry it out; asking twice gives the same answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controller.objects.resources import RESOURCES, resource_of_key

_SERVED = {(row.api_version, row.kind) for row in RESOURCES}


@dataclass(frozen=True, slots=True)
class Deletion:
    """One object to delete; `final` removes a namespace that is empty at last."""

    resource: str
    namespace: str
    name: str
    uid: str
    final: bool = False


def garbage(snapshot: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Deletion]:
    """What is to go: dependents without a living owner, the contents of namespaces that are going, and those namespaces once empty."""
    uids = {doc["metadata"]["uid"] for docs in snapshot.values() for doc in docs}
    contents = _by_namespace(snapshot)
    found = [
        _deletion(name, doc)
        for name, docs in snapshot.items()
        for doc in docs
        if not _going(doc) and _is_orphan(doc["metadata"], uids)
    ]
    for namespace in snapshot.get("namespaces", ()):
        if _going(namespace):
            found.extend(_emptying(namespace, contents.get(namespace["metadata"]["name"], ())))
    return list(dict.fromkeys(found))


def _emptying(namespace: Mapping[str, Any], contents: Sequence[tuple[str, Mapping[str, Any]]]) -> Iterator[Deletion]:
    if not contents and not namespace["metadata"].get("finalizers"):
        yield _deletion("namespaces", namespace, final=True)
    for name, doc in contents:
        if not _going(doc):
            yield _deletion(name, doc)


def _by_namespace(
    snapshot: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]]:
    contents: defaultdict[str, list[tuple[str, Mapping[str, Any]]]] = defaultdict(list)
    for name, docs in snapshot.items():
        resource = resource_of_key(name)
        if resource is not None and resource.namespaced:
            for doc in docs:
                contents[doc["metadata"]["namespace"]].append((name, doc))
    return contents


def _is_orphan(metadata: Mapping[str, Any], uids: set[str]) -> bool:
    """All owners are gone. An owner of a kind that is not served here cannot be judged, so it counts as living."""
    owners = metadata.get("ownerReferences") or ()
    return bool(owners) and not any(
        owner["uid"] in uids or (owner["apiVersion"], owner["kind"]) not in _SERVED for owner in owners
    )


def _going(doc: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" in doc["metadata"]


def _deletion(resource: str, doc: Mapping[str, Any], *, final: bool = False) -> Deletion:
    metadata = doc["metadata"]
    return Deletion(resource, metadata.get("namespace", ""), metadata["name"], metadata["uid"], final)
