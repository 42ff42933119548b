"""Editing: each verb on one object, as a step of a draft.

In: a draft, and what the caller wants of one object. Out: the draft holds the writes for it, and an `Edit` says what the object will be.
The steps read through the draft, decide with `semantics` and `merge`, and let admission judge; `registry.py` writes the draft.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from controller.objects import semantics
from controller.objects.admission import AdmissionRequest, Admit
from controller.objects.draft import Draft
from controller.objects.merge import three_way
from controller.objects.semantics import LAST_APPLIED, Doc, Reference
from podwire.errors import Exhausted, InvalidInput, PermissionDenied
from podwire.seams import Clock, Rng

Outcome = Literal["created", "configured", "unchanged"]
Change = Callable[[Doc], Doc | None]
"""From the document as it is (its own copy, with resourceVersion) to what it shall be; None leaves it alone."""

PROTECTED_NAMESPACES = ("default", "kube-system")
_SUFFIX_LENGTH = 5
_NAME_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Edit:
    """What becomes of an object: `revision` is its own where it stays as it is, and 0 where the draft's revision will be."""

    doc: Doc
    revision: int = 0

    def at(self, revision: int) -> Doc:
        """The document with its resourceVersion, once the draft was written at a revision."""
        return semantics.stamped(self.doc, self.revision or revision)


class Editor:
    """The verbs, over one draft."""

    def __init__(self, draft: Draft, clock: Clock, rng: Rng, admission: Mapping[str, Admit]) -> None:
        self._draft = draft
        self._clock = clock
        self._rng = rng
        self._admission = admission

    async def create(self, doc: Mapping[str, Any], namespace: str) -> Edit:
        """A new object; raises InvalidInput, NotFound (its namespace), AlreadyExists."""
        reference, copy = semantics.identify(doc, namespace)
        return await self._create(await self._named(reference, copy), copy)

    async def _create(self, reference: Reference, copy: Doc) -> Edit:
        await self._draft.require_namespace(reference)
        new = semantics.created(reference, copy, uid=self._rng.uid(), now=self._clock.wall())
        self._admit("CREATE", reference, new, None)
        await self._draft.create(reference, new)
        return Edit(new)

    async def _named(self, reference: Reference, doc: Doc) -> Reference:
        """With a name made up from generateName, where none is given."""
        if reference.name:
            return reference
        prefix = doc["metadata"]["generateName"][: 63 - _SUFFIX_LENGTH]
        for _ in range(_NAME_ATTEMPTS):
            named = Reference(reference.resource, reference.namespace, prefix + self._rng.name_suffix(_SUFFIX_LENGTH))
            if not await self._draft.exists(named):
                return named
        raise Exhausted(f"no free name that begins with {prefix!r} was found for a {reference.resource.singular}")

    async def rewrite(
        self, reference: Reference, change: Change, *, status: bool = False, ours: bool = False
    ) -> Edit | None:
        """An object as `change` makes it; None where that is None. A change of `ours` works on the document that it was given and makes
        good ones, which are neither gone through nor admitted again. Raises NotFound, Conflict, InvalidInput.
        """
        entry, old = await self._draft.read(reference)
        wanted = change(semantics.decode(entry))
        if wanted is None:
            return None
        meant, copy = (reference, wanted) if ours else semantics.identify(wanted, reference.namespace)
        if meant != reference:
            raise InvalidInput(
                f"{reference} cannot become {meant}: kind, namespace and name are fixed", field="metadata.name"
            )
        semantics.check_preconditions(reference, copy["metadata"], entry, old)
        new = semantics.status_updated(old, copy) if status else self._updated(reference, old, copy, ours=ours)
        if semantics.is_finished(reference, new):
            self._draft.replace(reference, None)
            return Edit(new)
        if new == old:
            return Edit(old, entry.revision)
        self._draft.replace(reference, new)
        return Edit(new)

    def _updated(self, reference: Reference, old: Doc, copy: Doc, *, ours: bool) -> Doc:
        new = semantics.updated(reference, old, copy)
        if not ours:
            self._admit("UPDATE", reference, new, old)
        semantics.raise_generation(reference, old, new)
        return new

    def _admit(self, operation: Literal["CREATE", "UPDATE"], reference: Reference, new: Doc, old: Doc | None) -> None:
        admit = self._admission.get(reference.resource.name)
        if admit is not None:
            admit(AdmissionRequest(reference.resource, operation, new, old, reference.namespace, reference.name))

    async def apply(self, doc: Mapping[str, Any], namespace: str) -> tuple[Edit, Outcome]:
        """kubectl's apply: makes the object, or merges file, last applied file and object. Raises as create and rewrite do."""
        reference, copy = semantics.identify(doc, namespace)
        if not reference.name:
            raise InvalidInput("metadata.name: is required by apply; generateName is for create", field="metadata.name")
        said = _as_applied(doc)
        applied = semantics.encode(said, sorted_keys=True).decode() + "\n"  # as kubectl writes it
        if not await self._draft.exists(reference):
            copy["metadata"].setdefault("annotations", {})[LAST_APPLIED] = applied
            return await self._create(reference, copy), "created"

        def merge(current: Doc) -> Doc:
            merged = three_way(_originally_applied(reference, current), said, current, reference.resource.merge)
            merged["metadata"].setdefault("annotations", {})[LAST_APPLIED] = applied
            return merged

        edit = await self.rewrite(reference, merge)
        assert edit is not None, "merge always gives a document"  # noqa: S101 - for the type checker
        return edit, "unchanged" if edit.revision else "configured"

    async def delete(self, reference: Reference, *, grace_s: int | None = None, uid: str = "") -> Edit:
        """Marks an object as going, or removes it where nothing holds it; raises NotFound, Conflict (another uid)."""
        if reference.resource.name == "namespaces" and reference.name in PROTECTED_NAMESPACES:
            raise PermissionDenied(f"{reference} is part of every cluster and cannot be deleted")
        entry, old = await self._draft.read(reference)
        semantics.check_preconditions(reference, {"uid": uid}, entry, old)
        new = semantics.deleted(reference, old, grace_s=grace_s, now=self._clock.wall())
        if new is old:
            return Edit(old, entry.revision)
        self._draft.replace(reference, new)
        return Edit(new or old)

    async def remove(self, reference: Reference, uid: str) -> Edit:
        """The end of a deletion: the node, or the emptied namespace, let go. Only finalizers still hold an object then."""
        entry, old = await self._draft.read(reference)
        semantics.check_preconditions(reference, {"uid": uid}, entry, old)
        new = semantics.removed(old, now=self._clock.wall())
        if new is old:
            return Edit(old, entry.revision)
        self._draft.replace(reference, new)
        return Edit(new or old)


def _as_applied(doc: Mapping[str, Any]) -> Doc:
    """The file without the annotation that is about the file; always with annotations, so that those of others are not taken out."""
    metadata = doc["metadata"]
    annotations = {name: value for name, value in (metadata.get("annotations") or {}).items() if name != LAST_APPLIED}
    return {**doc, "metadata": {**metadata, "annotations": annotations}}


def _originally_applied(reference: Reference, current: Doc) -> dict[str, Any]:
    text = current["metadata"].get("annotations", {}).get(LAST_APPLIED)
    if text is None:
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise InvalidInput(
            f"{reference}: its annotation {LAST_APPLIED} is not a JSON document ({error})",
            field=f"metadata.annotations[{LAST_APPLIED}]",
            hint="remove the annotation and apply again",
        ) from error
