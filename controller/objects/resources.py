"""Resources: the table of kinds that are served. A new kind is a row here (and an admission function, if it has rules of its own).

In: an apiVersion and kind from a document, or a word from a command line. Out: the row, or an error that lists what there is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from controller.objects.merge import NODE_RULES, POD_RULES, Rules
from podwire.errors import InvalidInput, NotFound


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind: how it is called, where it lives, and which of the general rules hold for it."""

    name: str
    """Plural, as in URLs and keys."""
    kind: str
    api_version: str
    short_names: tuple[str, ...] = ()
    namespaced: bool = True
    has_status: bool = True
    """Status is written apart from the rest: a plain update keeps it, a status update keeps the rest."""
    keeps_status_on_create: bool = False
    """Whoever creates it may report its status at once (nodes)."""
    initial_phase: str = ""
    """status.phase of a new one."""
    name_is_label: bool = False
    """Its name must be a DNS label; otherwise a DNS subdomain."""
    merge: Rules = field(default_factory=dict, compare=False)
    """Which of its lists `apply` merges by key."""
    categories: tuple[str, ...] = ()

    @property
    def singular(self) -> str:
        """The kind in lower case, as messages name it."""
        return self.kind.lower()


RESOURCES: tuple[Resource, ...] = (
    Resource(
        name="namespaces",
        kind="Namespace",
        api_version="v1",
        short_names=("ns",),
        namespaced=False,
        initial_phase="Active",
        name_is_label=True,
    ),
    Resource(
        name="nodes",
        kind="Node",
        api_version="v1",
        short_names=("no",),
        namespaced=False,
        keeps_status_on_create=True,
        merge=NODE_RULES,
    ),
    Resource(
        name="pods",
        kind="Pod",
        api_version="v1",
        short_names=("po",),
        initial_phase="Pending",
        merge=POD_RULES,
        categories=("all",),
    ),
    Resource(name="events", kind="Event", api_version="v1", short_names=("ev",), has_status=False),
    Resource(name="clusters", kind="Cluster", api_version="podwire.dev/v1alpha1", namespaced=False),
)

_BY_KIND = {(row.api_version, row.kind): row for row in RESOURCES}
_BY_NAME = {row.name: row for row in RESOURCES}
_BY_WORD = {word.lower(): row for row in RESOURCES for word in (row.name, row.kind, *row.short_names)}


def supported() -> str:
    """What is served, for messages."""
    return ", ".join(f"{row.kind} ({row.api_version})" for row in RESOURCES)


def resource_for(api_version: str, kind: str) -> Resource:
    """The row of a document's kind; raises InvalidInput."""
    row = _BY_KIND.get((api_version, kind))
    if row is None:
        raise InvalidInput(
            f"kind {kind!r} in apiVersion {api_version!r} is not supported; supported are {supported()}", field="kind"
        )
    return row


def resource_named(word: str) -> Resource:
    """The row that a plural, singular, short name or kind means, in any case; raises NotFound."""
    row = _BY_WORD.get(word.lower())
    if row is None:
        names = ", ".join("/".join((row.name, *row.short_names)) for row in RESOURCES)
        raise NotFound(f"there is no resource type {word!r}; there are {names}")
    return row


def resource_of_key(name: str) -> Resource | None:
    """The row of a plural exactly as keys have it; None for one that this version does not know."""
    return _BY_NAME.get(name)
