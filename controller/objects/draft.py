"""A draft: one transaction over objects while it is being put together.

In: the store as it is now, and documents to create, replace or remove. Out: preconditions and writes that hold only if nothing the draft
relied on has changed meanwhile, so that whoever made the draft can make it again from fresh reads. Later documents of a draft see
the earlier ones (a namespace and what is in it, created together).
"""

from __future__ import annotations

from collections.abc import Sequence

from controller.objects.keys import object_key
from controller.objects.semantics import Doc, Reference, encode, raw
from controller.store.base import Absent, Entry, Precondition, Put, Remove, Store, Unchanged, Write
from podwire.errors import AlreadyExists, Conflict, InvalidInput, NotFound


class Draft:
    """See the module's docstring."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._relied_on: dict[str, Precondition] = {}
        self._writes: dict[str, Write] = {}
        self._also: list[Write] = []
        self._given: list[Precondition] = []
        self._namespaces: set[str] = set()  # known to be there, or created by this draft

    async def read(self, reference: Reference) -> tuple[Entry, Doc]:
        """The object as stored, relied on from now; raises NotFound."""
        entry = await self._store.get(_key(reference))
        if entry is None:
            raise NotFound(f"{reference} does not exist")
        self._relied_on[entry.key] = Unchanged(entry.key, entry.revision)
        return entry, raw(entry)

    async def exists(self, reference: Reference) -> bool:
        """Whether it is stored, or will be by this draft."""
        key = _key(reference)
        return key in self._writes or await self._store.get(key) is not None

    async def require_namespace(self, reference: Reference) -> None:
        """Its namespace must be there, and must still be when the draft is written. Raises NotFound, Conflict."""
        if not reference.resource.namespaced or reference.namespace in self._namespaces:
            return
        key = object_key("namespaces", "", reference.namespace)
        entry = await self._store.get(key)
        if entry is None:
            raise NotFound(
                f"namespace {reference.namespace} does not exist, so {reference} cannot be created",
                hint=f"create namespace {reference.namespace} first",
            )
        if "deletionTimestamp" in raw(entry)["metadata"]:
            raise Conflict(
                f"namespace {reference.namespace} is being deleted, so {reference} cannot be created",
                hint="try again once it is gone",
            )
        self._relied_on[key] = Unchanged(key, entry.revision)
        self._namespaces.add(reference.namespace)

    async def create(self, reference: Reference, doc: Doc) -> None:
        """Stores a new object; raises AlreadyExists."""
        if await self.exists(reference):
            raise AlreadyExists(f"{reference} already exists")
        key = _key(reference)
        self._relied_on[key] = Absent(key)
        self._write(reference, Put(key, encode(doc)))
        if reference.resource.name == "namespaces":
            self._namespaces.add(reference.name)

    def replace(self, reference: Reference, doc: Doc | None) -> None:
        """Stores another version of an object that was read, or removes it."""
        key = _key(reference)
        self._write(reference, Remove(key) if doc is None else Put(key, encode(doc)))

    def _write(self, reference: Reference, write: Write) -> None:
        if write.key in self._writes:
            raise InvalidInput(f"{reference} stands twice in one request")
        self._writes[write.key] = write

    def join(self, also: Sequence[Write], given: Sequence[Precondition]) -> None:
        """Adds the caller's own writes and preconditions to the transaction; they are not looked into."""
        self._also.extend(also)
        self._given.extend(given)

    async def commit(self) -> int:
        """Writes it all at one revision, which is returned; the revision now, when there is nothing to write. Raises Conflict."""
        writes = [*self._writes.values(), *self._also]
        if not writes:
            return await self._store.revision()
        return await self._store.transact([*self._relied_on.values(), *self._given], writes)

    async def is_outdated(self) -> bool:
        """Whether something the draft relied on has changed: then a conflict is worth another try."""
        for precondition in self._relied_on.values():
            entry = await self._store.get(precondition.key)
            if isinstance(precondition, Absent):
                if entry is not None:
                    return True
            elif entry is None or entry.revision != precondition.revision:
                return True
        return False


def _key(reference: Reference) -> str:
    return object_key(reference.resource.name, reference.namespace, reference.name)
