"""The registry: Kubernetes' verbs over any store. What the façades and the controllers call.

In: documents, references, selectors. Out: documents with uid, resourceVersion and generation, or an error of `podwire.errors`; nothing
is ever half-written. Every verb makes a draft (`draft.py`) with the steps of `editing.py`, writes it in one transaction, and makes it
again when something it had read changed meanwhile. `also` and `given` join the caller's own writes and preconditions (an address
allocation) to that transaction. Documents that are handed out belong to the caller.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from controller.objects import gc
from controller.objects.admission import Admit
from controller.objects.bundle import located, require_distinct, without_lists
from controller.objects.draft import Draft
from controller.objects.editing import Change, Edit, Editor, Outcome
from controller.objects.keys import OBJECTS, object_key, parse_object_key
from controller.objects.merge import merge_patch
from controller.objects.resources import Resource, resource_named
from controller.objects.selectors import parse_selector
from controller.objects.semantics import Doc, Reference, decode, identify
from controller.objects.watching import Filter, WatchEvent, events_of
from controller.store.base import Precondition, Store, Write
from podwire.errors import Conflict, InvalidInput, NotFound
from podwire.seams import Clock, Rng

ATTEMPTS = 64  # of one transaction against others on the same objects; each round, at least one of them wins
_COLLECTED_AT_ONCE = 500  # deletions per transaction

AlsoFn = Callable[[Doc], tuple[Sequence[Write], Sequence[Precondition]]]
Docs = list[Doc]  # the class below has a method of that name
Applied = list[tuple[Doc, Outcome]]
T = TypeVar("T")


class Registry:
    """See the module's docstring. A resource is named by any word of its row (`pods`, `po`, `Pod`) or given as the row."""

    def __init__(self, store: Store, clock: Clock, rng: Rng, admission: Mapping[str, Admit] | None = None) -> None:
        self.store = store
        self._clock = clock
        self._rng = rng
        self._admission = admission or {}

    # Reading

    async def get(self, resource: str | Resource, namespace: str, name: str) -> Doc:
        """One object; raises NotFound."""
        reference = _reference(resource, namespace, name)
        entry = await self.store.get(object_key(reference.resource.name, reference.namespace, name))
        if entry is None:
            raise NotFound(f"{reference} does not exist")
        return decode(entry)

    async def list(
        self, resource: str | Resource, namespace: str | None = None, label_selector: str = "", field_selector: str = ""
    ) -> tuple[Docs, int]:
        """Objects in a namespace, or in all of them, that are selected, and the revision at which that was so."""
        wanted = _filter(resource, namespace, label_selector, field_selector)
        entries, revision = await self.store.list(wanted.prefix)
        docs = (decode(entry) for entry in entries)
        return [doc for doc in docs if not wanted.selector or wanted.selector.matches(doc)], revision

    async def watch(
        self,
        resource: str | Resource | None,
        namespace: str | None = None,
        label_selector: str = "",
        field_selector: str = "",
        *,
        after: int,
    ) -> AsyncIterator[WatchEvent]:
        """Events after a revision (that of a list) in order, each once, and bookmarks; raises Expired, from iteration: list again."""
        wanted = _filter(resource, namespace, label_selector, field_selector)
        async for batch in self.store.watch(wanted.prefix, after):
            for event in events_of(batch, wanted):
                yield event

    # Writing one object

    async def create(
        self,
        doc: Mapping[str, Any],
        *,
        namespace: str = "default",
        dry_run: bool = False,
        also: Sequence[Write] = (),
        given: Sequence[Precondition] = (),
    ) -> Doc:
        """A new object; its own namespace wins over `namespace`. Raises InvalidInput, AlreadyExists, NotFound (the namespace)."""
        docs = await self.create_many([doc], namespace=namespace, dry_run=dry_run, also=also, given=given)
        return docs[0]

    async def create_many(
        self,
        docs: Sequence[Mapping[str, Any]],
        *,
        namespace: str = "default",
        dry_run: bool = False,
        also: Sequence[Write] = (),
        given: Sequence[Precondition] = (),
    ) -> Docs:
        """New objects, all or none, in one transaction."""

        async def build(draft: Draft) -> list[Edit]:
            editor = self._editor(draft)
            edits = []
            for index, doc in enumerate(docs):
                with located(doc, index):
                    edits.append(await editor.create(doc, namespace))
            return edits

        edits, revision = await self._write(build, also=also, given=given, dry_run=dry_run)
        return [edit.at(revision) for edit in edits]

    async def update(
        self,
        doc: Mapping[str, Any],
        *,
        namespace: str = "default",
        dry_run: bool = False,
        also: Sequence[Write] = (),
        given: Sequence[Precondition] = (),
    ) -> Doc:
        """Replaces all but status and identity. A resourceVersion or uid in the document must be the stored one (Conflict);
        what changes nothing keeps its resourceVersion.
        """
        with located(doc):
            reference, copy = identify(doc, namespace)
        return await self._rewrite(reference, lambda _: copy, also=also, given=given, dry_run=dry_run)

    async def update_status(
        self,
        doc: Mapping[str, Any],
        *,
        namespace: str = "default",
        also: Sequence[Write] = (),
        given: Sequence[Precondition] = (),
    ) -> Doc:
        """Replaces status only (and labels, annotations and finalizers where the document has them); otherwise as `update`."""
        with located(doc):
            reference, copy = identify(doc, namespace)
        return await self._rewrite(reference, lambda _: copy, status=True, also=also, given=given)

    async def patch(
        self,
        resource: str | Resource,
        namespace: str,
        name: str,
        merge: Mapping[str, Any],
        *,
        subresource: str = "",
        dry_run: bool = False,
    ) -> Doc:
        """JSON merge patch; a resourceVersion in it is a precondition. `subresource` is "" or "status"."""
        if subresource not in {"", "status"}:
            raise InvalidInput(f"there is no subresource {subresource!r} to patch", field="subresource")
        reference = _reference(resource, namespace, name)
        return await self._rewrite(
            reference, lambda doc: merge_patch(doc, merge), status=subresource == "status", dry_run=dry_run
        )

    async def mutate(
        self,
        resource: str | Resource,
        namespace: str,
        name: str,
        change: Change,
        *,
        status: bool = False,
        also_fn: AlsoFn | None = None,
    ) -> Doc:
        """Applies `change` to the newest version, again after every conflict. It gets a document of its own and may change it in
        place; None leaves all as it is. `also_fn` gives further writes and preconditions for the version that is going to be stored.
        """
        return await self._rewrite(
            _reference(resource, namespace, name), change, status=status, ours=True, also_fn=also_fn
        )

    async def delete(
        self,
        resource: str | Resource,
        namespace: str,
        name: str,
        *,
        grace_s: int | None = None,
        uid: str = "",
        also: Sequence[Write] = (),
        given: Sequence[Precondition] = (),
    ) -> Doc:
        """Deletes, and returns the object as it is now or was last. A pod on a node is marked and goes when `remove` is called (at
        once with grace 0), an object with finalizers when they are gone, a namespace with all that is in it.
        """
        reference = _reference(resource, namespace, name)

        async def build(draft: Draft) -> Edit:
            return await self._editor(draft).delete(reference, grace_s=grace_s, uid=uid)

        edit, revision = await self._write(build, also=also, given=given)
        if reference.resource.name == "namespaces":
            await self.collect()
        return edit.at(revision)

    async def remove(
        self,
        resource: str | Resource,
        namespace: str,
        name: str,
        uid: str,
        *,
        also: Sequence[Write] = (),
        given: Sequence[Precondition] = (),
    ) -> Doc:
        """The end of a deletion, when its node has confirmed it; finalizers still hold. Raises NotFound, Conflict (another uid)."""
        reference = _reference(resource, namespace, name)

        async def build(draft: Draft) -> Edit:
            return await self._editor(draft).remove(reference, uid)

        edit, revision = await self._write(build, also=also, given=given)
        return edit.at(revision)

    # Writing many

    async def apply(
        self, docs: Sequence[Mapping[str, Any]], *, namespace: str = "default", dry_run: bool = False
    ) -> Applied:
        """kubectl's apply of all documents (Lists are taken apart) in one transaction: all of them or, when one is wrong, none."""
        flat = without_lists(docs)
        require_distinct(flat, namespace)

        async def build(draft: Draft) -> list[tuple[Edit, Outcome]]:
            editor = self._editor(draft)
            edits = []
            for index, doc in enumerate(flat):
                with located(doc, index):
                    edits.append(await editor.apply(doc, namespace))
            return edits

        edits, revision = await self._write(build, dry_run=dry_run)
        return [(edit.at(revision), outcome) for edit, outcome in edits]

    async def collect(self) -> int:
        """Deletes what `gc.garbage` finds, until it finds nothing new; returns how many objects that were."""
        count = 0
        while found := gc.garbage(await self._everything()):
            done = 0
            for start in range(0, len(found), _COLLECTED_AT_ONCE):
                done += await self._collect(found[start : start + _COLLECTED_AT_ONCE])
            if not done:
                break
            count += done
        return count

    async def _everything(self) -> Mapping[str, Sequence[Doc]]:
        objects: dict[str, Docs] = {}
        entries, _ = await self.store.list(OBJECTS)
        for entry in entries:
            objects.setdefault(parse_object_key(entry.key)[0], []).append(decode(entry))
        return objects

    async def _collect(self, deletions: Sequence[gc.Deletion]) -> int:
        async def build(draft: Draft) -> int:
            editor = self._editor(draft)
            done = 0
            for deletion in deletions:
                reference = _reference(deletion.resource, deletion.namespace, deletion.name)
                try:
                    if deletion.final:
                        await editor.remove(reference, deletion.uid)
                    else:
                        await editor.delete(reference, uid=deletion.uid)
                    done += 1
                except (NotFound, Conflict):
                    continue  # gone, or another object of that name by now
            return done

        done, _ = await self._write(build)
        return done

    # The transaction

    def _editor(self, draft: Draft) -> Editor:
        return Editor(draft, self._clock, self._rng, self._admission)

    async def _rewrite(
        self,
        reference: Reference,
        change: Change,
        *,
        status: bool = False,
        ours: bool = False,
        also: Sequence[Write] = (),
        given: Sequence[Precondition] = (),
        also_fn: AlsoFn | None = None,
        dry_run: bool = False,
    ) -> Doc:
        async def build(draft: Draft) -> Edit | None:
            with located(reference.as_document()):
                edit = await self._editor(draft).rewrite(reference, change, status=status, ours=ours)
            if edit is not None and also_fn is not None:
                draft.join(*also_fn(edit.doc))
            return edit

        edit, revision = await self._write(build, also=also, given=given, dry_run=dry_run)
        if edit is None:
            return await self.get(reference.resource, reference.namespace, reference.name)
        return edit.at(revision)

    async def _write(
        self,
        build: Callable[[Draft], Awaitable[T]],
        *,
        also: Sequence[Write] = (),
        given: Sequence[Precondition] = (),
        dry_run: bool = False,
    ) -> tuple[T, int]:
        """Builds a draft and writes it, again while others change what it read. Returns what was built, and the revision."""
        for attempt in range(1, ATTEMPTS + 1):
            draft = Draft(self.store)
            built = await build(draft)
            if dry_run:
                return built, await self.store.revision()
            draft.join(also, given)
            try:
                return built, await draft.commit()
            except Conflict:
                if attempt == ATTEMPTS or not await draft.is_outdated():
                    raise  # not outdated: one of the caller's own preconditions
        raise AssertionError("the last attempt returns or raises")


def _reference(resource: str | Resource, namespace: str, name: str) -> Reference:
    row = resource_named(resource) if isinstance(resource, str) else resource
    return Reference(row, namespace if row.namespaced else "", name)


def _filter(resource: str | Resource | None, namespace: str | None, labels: str, fields: str) -> Filter:
    row = resource_named(resource) if isinstance(resource, str) else resource
    return Filter(row, namespace or "", parse_selector(labels, fields))
