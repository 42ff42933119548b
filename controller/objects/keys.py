"""Keys: where things stand in the store. The one module that knows the scheme.

/objects/RESOURCE/NAMESPACE/NAME     a Kubernetes document; the namespace is "-" for cluster-scoped resources
/allocations/POOL/WHAT               something given out once, such as an address; written in one transaction with its owner
"""

from __future__ import annotations

OBJECTS = "/objects/"
ALLOCATIONS = "/allocations/"
CLUSTER_SCOPE = "-"  # no namespace can be called so: labels start with a letter or digit


def object_key(resource: str, namespace: str, name: str) -> str:
    """Key of one object; an empty namespace means cluster-scoped."""
    return f"{OBJECTS}{resource}/{namespace or CLUSTER_SCOPE}/{name}"


def object_prefix(resource: str = "", namespace: str = "") -> str:
    """Prefix of all objects, of one resource's, or of one resource's in one namespace."""
    if not resource:
        return OBJECTS
    return f"{OBJECTS}{resource}/{namespace}/" if namespace else f"{OBJECTS}{resource}/"


def parse_object_key(key: str) -> tuple[str, str, str]:
    """(resource, namespace or "", name) of an object's key."""
    _, _, resource, namespace, name = key.split("/", 4)
    return resource, "" if namespace == CLUSTER_SCOPE else namespace, name


def allocation_key(pool: str, what: str) -> str:
    """Key of one allocation; `what` may hold slashes (a CIDR)."""
    return f"{ALLOCATIONS}{pool}/{what}"


def allocation_prefix(pool: str = "") -> str:
    """Prefix of all allocations, or of one pool's."""
    return f"{ALLOCATIONS}{pool}/" if pool else ALLOCATIONS


def parse_allocation_key(key: str) -> tuple[str, str]:
    """(pool, what) of an allocation's key."""
    _, _, pool, what = key.split("/", 3)
    return pool, what
