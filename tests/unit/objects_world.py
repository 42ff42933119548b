"""What the tests of objects share: documents to begin with, and a clock that stands still."""

from __future__ import annotations

from typing import Any

Doc = dict[str, Any]


class StoppedClock:
    """Time that tests move."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def namespace(name: str) -> Doc:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def pod(name: str, *, node: str = "", **metadata: Any) -> Doc:
    spec: Doc = {"containers": [{"name": "main", "image": "pause"}]}
    if node:
        spec["nodeName"] = node
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **metadata}, "spec": spec}


def node(name: str) -> Doc:
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
