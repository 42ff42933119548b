"""`describe` as text: an object, in sections, and what happened to it.

In: a document and its events. Out: lines, with kubectl's labels and order as far as they apply here. Pure; a kind without a page of
its own is shown as YAML.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from podwire.cli import humanize, podstatus, tables
from podwire.model.manifests import dump_yaml

Document = dict[str, Any]
_INDENT = "  "
_LABEL_WIDTH = 16
_NONE = "<none>"


def describe(resource: str, document: Document, events: Sequence[Document], *, now: float) -> str:
    """The page of one object."""
    match resource:
        case "pods":
            lines = list(_pod(document, now))
        case "nodes":
            lines = list(_node(document))
        case "namespaces":
            lines = list(_namespace(document))
        case _:
            lines = dump_yaml(document).splitlines()
    return "\n".join([*lines, *_events(events, now)]) + "\n"


def _field(label: str, value: Any, depth: int = 0) -> str:
    title = f"{_INDENT * depth}{label}:"
    return f"{title.ljust(_LABEL_WIDTH + 2 * depth)} {_NONE if value in (None, '', [], {}) else value}"


def _mapping(label: str, values: dict[str, str] | None) -> Iterable[str]:
    pairs = [f"{key}={value}" for key, value in sorted((values or {}).items())]
    yield _field(label, pairs[0] if pairs else "")
    for pair in pairs[1:]:
        yield " " * (_LABEL_WIDTH + 1) + pair


def _heading(document: Document) -> Iterable[str]:
    metadata = document.get("metadata", {})
    yield _field("Name", metadata.get("name"))
    if metadata.get("namespace"):
        yield _field("Namespace", metadata["namespace"])


def _about(document: Document) -> Iterable[str]:
    metadata = document.get("metadata", {})
    yield from _mapping("Labels", metadata.get("labels"))
    annotations = {
        key: value
        for key, value in (metadata.get("annotations") or {}).items()
        if not key.endswith("last-applied-configuration")
    }
    yield from _mapping("Annotations", annotations)


def _pod(pod: Document, now: float) -> Iterable[str]:
    spec, status = pod.get("spec", {}), pod.get("status", {})
    yield from _heading(pod)
    yield _field("Node", "/".join(filter(None, (spec.get("nodeName"), status.get("hostIP")))))
    yield _field("Start Time", status.get("startTime"))
    yield from _about(pod)
    deleted = pod.get("metadata", {}).get("deletionTimestamp")
    if deleted:
        yield _field("Status", f"Terminating (lasts {humanize.age(deleted, now)})")
        yield _field("Grace Period", f"{pod['metadata'].get('deletionGracePeriodSeconds', 0)}s")
    else:
        yield _field("Status", status.get("phase"))
    for label in ("reason", "message"):
        if status.get(label):
            yield _field(label.title(), status[label])
    if podstatus.is_stand_in(pod):
        yield _field("Stand-in", _condition_text(pod, podstatus.STAND_IN_CONDITION))
    yield _field("IP", status.get("podIP"))
    yield _field("IPs", ", ".join(one.get("ip", "") for one in status.get("podIPs") or []))
    for title, key, statuses in (
        ("Init Containers", "initContainers", "initContainerStatuses"),
        ("Containers", "containers", "containerStatuses"),
    ):
        if spec.get(key):
            yield f"{title}:"
            states = {one.get("name"): one for one in status.get(statuses) or []}
            for container in spec[key]:
                yield from _container(container, states.get(container.get("name"), {}))
    yield from _conditions(pod)
    yield from _mapping("Node-Selectors", spec.get("nodeSelector"))


def _container(container: Document, status: Document) -> Iterable[str]:
    yield f"  {container.get('name')}:"
    yield _field("Image", container.get("image"), 2)
    ports = [f"{port.get('containerPort')}/{port.get('protocol', 'TCP')}" for port in container.get("ports") or []]
    yield _field("Ports", ", ".join(ports), 2)
    for label, key in (("Command", "command"), ("Args", "args")):
        if container.get(key):
            yield _field(label, " ".join(container[key]), 2)
    yield from _state("State", status.get("state") or {})
    if status.get("lastState"):
        yield from _state("Last State", status["lastState"])
    yield _field("Ready", status.get("ready", False), 2)
    yield _field("Restart Count", status.get("restartCount", 0), 2)
    if container.get("env"):
        yield _field("Environment", ", ".join(f"{one['name']}={_env_value(one)}" for one in container["env"]), 2)


def _env_value(variable: Document) -> str:
    reference = (variable.get("valueFrom") or {}).get("fieldRef") or {}
    return f"({reference['fieldPath']})" if reference else str(variable.get("value", ""))


def _state(label: str, state: Document) -> Iterable[str]:
    word = next(iter(state), "")
    facts: Document = state.get(word) or {}
    yield _field(label, word.title(), 2)
    for title, key in (
        ("Reason", "reason"),
        ("Message", "message"),
        ("Exit Code", "exitCode"),
        ("Signal", "signal"),
        ("Started", "startedAt"),
        ("Finished", "finishedAt"),
    ):
        if facts.get(key) not in (None, ""):
            yield _field(title, facts[key], 3)


def _node(node: Document) -> Iterable[str]:
    spec, status = node.get("spec", {}), node.get("status", {})
    yield from _heading(node)
    yield from _about(node)
    yield _field("Created", node.get("metadata", {}).get("creationTimestamp"))
    taints = [f"{one.get('key')}:{one.get('effect')}" for one in spec.get("taints") or []]
    yield _field("Taints", ", ".join(taints))
    yield _field("Unschedulable", spec.get("unschedulable", False))
    yield from _conditions(node)
    yield "Addresses:"
    for one in status.get("addresses") or []:
        yield _field(str(one.get("type")), one.get("address"), 1)
    yield _field("PodCIDR", spec.get("podCIDR"))
    yield _field("PodCIDRs", ", ".join(spec.get("podCIDRs") or []))
    info = status.get("nodeInfo") or {}
    if info:
        yield "System Info:"
        for key, value in info.items():
            yield _field(key, value, 1)


def _namespace(namespace: Document) -> Iterable[str]:
    yield from _heading(namespace)
    yield from _about(namespace)
    yield _field("Status", namespace.get("status", {}).get("phase"))


def _conditions(document: Document) -> Iterable[str]:
    conditions = document.get("status", {}).get("conditions") or []
    if not conditions:
        return
    yield "Conditions:"
    rows = [("Type", "Status", "Reason", "Message")]
    rows += [
        (str(one.get("type", "")), str(one.get("status", "")), str(one.get("reason", "")), str(one.get("message", "")))
        for one in conditions
    ]
    yield from _aligned(rows)


def _condition_text(document: Document, wanted: str) -> str:
    return next(
        (str(one.get("message", "")) for one in document["status"]["conditions"] if one.get("type") == wanted), ""
    )


def _events(events: Sequence[Document], now: float) -> Iterable[str]:
    if not events:
        yield _field("Events", "")
        return
    yield "Events:"
    rows = [("Type", "Reason", "Age", "From", "Message")]
    for event in sorted(events, key=tables.event_time):
        count = tables.event_count(event)
        times = f" (x{count} over {humanize.age(event.get('firstTimestamp'), now)})" if count > 1 else ""
        source = event.get("source") or {}
        rows.append(
            (
                str(event.get("type", "")),
                str(event.get("reason", "")),
                humanize.age(tables.event_time(event), now) + times,
                str(event.get("reportingComponent") or source.get("component") or ""),
                str(event.get("message", "")),
            )
        )
    yield from _aligned(rows)


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterable[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield (_INDENT + _INDENT.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()
