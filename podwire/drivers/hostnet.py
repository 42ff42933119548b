"""The host's networks, and ranges that stay clear of them.

In: the output of `ip -j route`, and a `ClusterSpec`. Out: `check_collisions` (InvalidInput with the path of the range that collides) and
`free_subnet` (a range for a cluster's underlay). Both drivers use them; only `host_networks` asks the machine.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import shutil
import subprocess
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from podwire.errors import Exhausted, InvalidInput
from podwire.model.addresses import IPNetwork, overlaps
from podwire.model.cluster import ClusterSpec

# Little used by home routers, clouds and container engines; a cluster starts at a place of its own in it.
UNDERLAY_POOL = ipaddress.IPv4Network("10.208.0.0/12")


@dataclass(frozen=True, slots=True)
class HostNetwork:
    """A range that this machine routes, and through what."""

    network: IPNetwork
    link: str


def host_networks() -> list[HostNetwork]:
    """What the main routing tables hold; empty where `ip` is not installed (Docker Desktop)."""
    if shutil.which("ip") is None:
        return []
    found: list[HostNetwork] = []
    for family in ("-4", "-6"):
        listing = subprocess.run(["ip", family, "-j", "route"], capture_output=True, text=True, check=False)
        found += parse_routes(listing.stdout)
    return found


def parse_routes(listing: str) -> list[HostNetwork]:
    """The ranges of `ip -j route`, without default routes (whole of the address space, or halves of it) and link-local ones."""
    found = []
    for route in json.loads(listing or "[]"):
        destination = route.get("dst", "default")
        if destination == "default":
            continue
        network = ipaddress.ip_network(destination, strict=False)
        if network.prefixlen > 1 and not network.is_link_local and not network.is_multicast:
            found.append(HostNetwork(network, route.get("dev", "")))
    return found


def check_collisions(spec: ClusterSpec, networks: Iterable[HostNetwork], *, own: Collection[IPNetwork] = ()) -> None:
    """Raises InvalidInput for the first range of the cluster that the host already routes; `own` are the cluster's."""
    ranges = [(f"spec.podCIDR{'v6' if cidr.version == 6 else ''}", cidr) for cidr in spec.pod_cidrs]
    ranges += [(f"spec.serviceCIDR{'v6' if cidr.version == 6 else ''}", cidr) for cidr in spec.service_cidrs]
    if spec.underlay_cidr is not None:
        ranges.append(("spec.underlayCIDR", spec.underlay_cidr))
    for host in networks:
        if host.network in own:
            continue
        for field, cidr in ranges:
            if overlaps(cidr, host.network):
                raise InvalidInput(
                    f"{field}: {cidr} collides with {host.network}, which this machine reaches through {host.link or 'a route'}",
                    field=field,
                    hint=f"choose another range for {field}",
                )


def free_subnet(spec: ClusterSpec, taken: Iterable[IPNetwork]) -> ipaddress.IPv4Network:
    """A range for the underlay that is clear of `taken` and of the cluster's own; the same one each time where nothing changed."""
    length = min(24, 32 - (len(spec.nodes) + 8).bit_length())  # network, broadcast, host, controller, and room to grow
    avoid = [*taken, *spec.pod_cidrs, *spec.service_cidrs]
    count = 2 ** (length - UNDERLAY_POOL.prefixlen)
    first = int.from_bytes(hashlib.sha256(spec.name.encode()).digest()[:4]) % count
    base, size = int(UNDERLAY_POOL.network_address), 2 ** (32 - length)
    for step in range(count):
        candidate = ipaddress.IPv4Network((base + (first + step) % count * size, length))
        if not any(overlaps(candidate, other) for other in avoid):
            return candidate
    raise Exhausted(f"no range of {UNDERLAY_POOL} is free for the underlay", hint="set spec.underlayCIDR")
