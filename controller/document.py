"""The Cluster document's file, as a driver left it.

In: its content. Out: a `ClusterSpec`, or InvalidInput that names the file.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from podwire.errors import InvalidInput
from podwire.model.cluster import ClusterSpec, parse_cluster


def read_cluster(content: bytes | None, path: Path, name: str) -> ClusterSpec:
    """The Cluster document of a file; raises InvalidInput."""
    if content is None:
        raise InvalidInput(f"there is no Cluster document {path}")
    try:
        document = msgspec.json.decode(content, type=dict)
    except msgspec.DecodeError as error:
        raise InvalidInput(f"the Cluster document {path} is not JSON: {error}") from error
    spec = parse_cluster(document)
    if name and spec.name != name:
        raise InvalidInput(
            f"the Cluster document {path} is of cluster {spec.name!r}, not of {name!r}", field="metadata.name"
        )
    return spec
