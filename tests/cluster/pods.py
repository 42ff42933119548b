"""Pods for tests, as manifests: what serves, what runs a command; and the three that most tests are about."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from podwire.client import ControlClient
from podwire.errors import NotFound
from tests.cluster.harness import eventually

HTTP_PORT, UDP_PORT = 8080, 8081
Document = dict[str, Any]


def serving(name: str = "web", port: int = HTTP_PORT) -> Document:
    """A container that answers HTTP, and UDP on the port after."""
    return {"name": name, "image": "agnhost", "args": ["netexec", f"--http-port={port}", f"--udp-port={port + 1}"]}


def command(name: str, *argv: str, add: tuple[str, ...] = ()) -> Document:
    """A container that is a real process."""
    container: Document = {"name": name, "image": "podwire/shell", "command": list(argv)}
    return container | ({"securityContext": {"capabilities": {"add": list(add)}}} if add else {})


def pod(name: str, node: str, *containers: Document, **spec: Any) -> Document:
    """A pod on a node; it serves where nothing else is said."""
    spec |= {"nodeName": node, "terminationGracePeriodSeconds": 1, "containers": list(containers) or [serving()]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


TRIO = (pod("a1", "a"), pod("a2", "a"), pod("b1", "b"))


def is_ready(document: Mapping[str, Any]) -> bool:
    """Whether a pod's Ready condition holds."""
    conditions = document.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


async def ready(client: ControlClient, *names: str) -> dict[str, str]:
    """Waits until these pods are Ready; returns their addresses by name."""
    found: dict[str, Document] = {}

    async def all_ready() -> bool:
        found.update({name: await client.get("pods", name, namespace="default") for name in names})
        return all(is_ready(document) for document in found.values())

    await eventually(all_ready, f"not all of {', '.join(names)} are Ready", within_s=20.0)
    return {name: found[name]["status"]["podIP"] for name in names}


async def gone(client: ControlClient, *names: str) -> None:
    """Deletes pods and waits until nothing is left of them."""
    for name in names:
        with contextlib.suppress(NotFound):
            await client.delete("pods", name, namespace="default")

    async def none_left() -> bool:
        left = {document["metadata"]["name"] for document in (await client.list("pods", namespace="default")).documents}
        return not left & set(names)

    await eventually(none_left, f"{', '.join(names)} are still there", within_s=20.0)


@contextlib.asynccontextmanager
async def applied(client: ControlClient, *documents: Document) -> AsyncIterator[dict[str, str]]:
    """Pods that are there within the block; yields their addresses once all are Ready."""
    names = [document["metadata"]["name"] for document in documents]
    try:
        await client.apply(documents)
        yield await ready(client, *names)
    finally:
        await gone(client, *names)
