"""Tables: which columns each kind has, and what stands in them, as kubectl shows them.

In: documents, `now`, whether wide. Out: titles and rows of plain text; `render.py` draws them. Pure. A kind without a table of its
own gets NAME and AGE.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from podwire.cli import humanize, podstatus
from podwire.cli.humanize import commas

Document = dict[str, Any]
Cell = Callable[[Document, float], str]


@dataclass(frozen=True, slots=True)
class Column:
    """A title and how its cell is read from a document at a time."""

    title: str
    cell: Cell
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """What `render.table` draws."""

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def table(
    resource: str,
    documents: Sequence[Document],
    *,
    now: float,
    wide: bool = False,
    namespaces: bool = False,
    labels: bool = False,
    prefix: str = "",
) -> Table:
    """Documents of one resource as a table; `prefix` goes before names (`pod/`) when several kinds are shown together."""
    columns = [column for column in _COLUMNS.get(resource, _DEFAULT) if wide or not column.wide]
    if namespaces:
        columns.insert(0, Column("NAMESPACE", lambda document, _: _metadata(document, "namespace")))
    if labels:
        columns.append(Column("LABELS", lambda document, _: label_text(document)))
    rows = tuple(
        tuple((prefix if column.title == "NAME" else "") + column.cell(document, now) or "<none>" for column in columns)
        for document in documents
    )
    return Table(tuple(column.title for column in columns), rows)


def label_text(document: Document) -> str:
    """Labels as `key=value,…`, sorted."""
    labels = document.get("metadata", {}).get("labels") or {}
    return commas(f"{key}={value}" for key, value in sorted(labels.items()))


def _metadata(document: Document, key: str) -> str:
    return str(document.get("metadata", {}).get(key) or "")


def _name(document: Document, _: float) -> str:
    return _metadata(document, "name")


def _age(document: Document, now: float) -> str:
    return humanize.age(_metadata(document, "creationTimestamp"), now)


def _at(*path: str) -> Cell:
    def cell(document: Document, _: float) -> str:
        value: Any = document
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        return "" if value is None else str(value)

    return cell


def _pod_ready(pod: Document, _: float) -> str:
    return "{}/{}".format(*podstatus.ready_containers(pod))


def _pod_status(pod: Document, _: float) -> str:
    mark = f" ({podstatus.STAND_IN_MARK})" if podstatus.is_stand_in(pod) else ""
    return podstatus.summary(pod) + mark


def _pod_addresses(pod: Document, _: float) -> str:
    status = pod.get("status", {})
    return (
        commas(one.get("ip", "") for one in status.get("podIPs") or [])
        if status.get("podIPs")
        else status.get("podIP") or ""
    )


def _node_status(node: Document, _: float) -> str:
    word = {"True": "Ready", "False": "NotReady"}.get(podstatus.condition(node, "Ready") or "", "Unknown")
    return f"{word},SchedulingDisabled" if node.get("spec", {}).get("unschedulable") else word


def _node_roles(node: Document, _: float) -> str:
    prefix = "node-role.kubernetes.io/"
    labels = node.get("metadata", {}).get("labels") or {}
    return commas(sorted(key.removeprefix(prefix) for key in labels if key.startswith(prefix)))


def _node_addresses(node: Document, _: float) -> str:
    addresses = node.get("status", {}).get("addresses") or []
    return commas(one.get("address", "") for one in addresses if one.get("type") == "InternalIP")


def _node_pod_cidrs(node: Document, _: float) -> str:
    spec = node.get("spec", {})
    return commas(spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else []))


def event_time(event: Document) -> str:
    """When an event was last seen."""
    return str(event.get("lastTimestamp") or event.get("eventTime") or _metadata(event, "creationTimestamp"))


def event_count(event: Document) -> int:
    """How often an event was seen."""
    return int(event.get("count") or 1)


def _event_seen(event: Document, now: float) -> str:
    return humanize.age(event_time(event), now)


def _event_object(event: Document, _: float) -> str:
    about = event.get("involvedObject") or {}
    return f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}"


_DEFAULT = (Column("NAME", _name), Column("AGE", _age))

_COLUMNS: dict[str, tuple[Column, ...]] = {
    "namespaces": (Column("NAME", _name), Column("STATUS", _at("status", "phase")), Column("AGE", _age)),
    "pods": (
        Column("NAME", _name),
        Column("READY", _pod_ready),
        Column("STATUS", _pod_status),
        Column("RESTARTS", lambda pod, _: str(podstatus.restarts(pod))),
        Column("AGE", _age),
        Column("IP", _pod_addresses, wide=True),
        Column("NODE", _at("spec", "nodeName"), wide=True),
    ),
    "nodes": (
        Column("NAME", _name),
        Column("STATUS", _node_status),
        Column("ROLES", _node_roles),
        Column("AGE", _age),
        Column("VERSION", _at("status", "nodeInfo", "kubeletVersion")),
        Column("INTERNAL-IP", _node_addresses, wide=True),
        Column("POD-CIDR", _node_pod_cidrs, wide=True),
    ),
    "events": (
        Column("LAST SEEN", _event_seen),
        Column("TYPE", _at("type")),
        Column("REASON", _at("reason")),
        Column("OBJECT", _event_object),
        Column("COUNT", lambda event, _: str(event_count(event)), wide=True),
        Column("MESSAGE", _at("message")),
    ),
}
