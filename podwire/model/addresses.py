"""Addresses: CIDRs parsed once, and the fixed places inside a node's pod CIDR.

In: strings from users or messages. Out: `ipaddress` values, or InvalidInput with the path of the wrong field.
Layout of a node's pod CIDR, per family: base = the tunnel end's own address, base+1 = the gateway on the bridge, the rest pods;
the last address of an IPv4 CIDR (broadcast) is never given.
"""

from __future__ import annotations

import ipaddress

from podwire.errors import InvalidInput

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IPInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


def parse_cidr(value: str, field: str) -> IPNetwork:
    """A network without host bits; raises InvalidInput."""
    try:
        return ipaddress.ip_network(value, strict=True)
    except ValueError as error:
        raise InvalidInput(f"{field}: {value!r} is not a CIDR ({error})", field=field) from error


def parse_address(value: str, field: str) -> IPAddress:
    """One address; raises InvalidInput, also where an IPv6 zone is no interface's name (Python takes any text for one)."""
    try:
        if value.isascii() and value.isprintable() and " " not in value:
            return ipaddress.ip_address(value)
    except ValueError as error:
        raise InvalidInput(f"{field}: {value!r} is not an IP address", field=field) from error
    raise InvalidInput(f"{field}: {value!r} is not an IP address", field=field)


def vtep_address(pod_cidr: IPNetwork) -> IPAddress:
    """The tunnel end's address in the overlay: the CIDR's base, as flannel has it."""
    return pod_cidr.network_address


def gateway_address(pod_cidr: IPNetwork) -> IPAddress:
    """The node's address on its bridge: what its pods route through."""
    return pod_cidr.network_address + 1


def gateway_interface(pod_cidr: IPNetwork) -> IPInterface:
    """The gateway with the CIDR's prefix length."""
    return ipaddress.ip_interface(f"{gateway_address(pod_cidr)}/{pod_cidr.prefixlen}")


def overlaps(one: IPNetwork, other: IPNetwork) -> bool:
    """Whether two networks of one family share an address; networks of two families never do."""
    return one.version == other.version and one.overlaps(other)
