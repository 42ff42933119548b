"""Names: Kubernetes' grammars, and the names of kernel objects, which are a pure function of (cluster, owner).

In: strings from users. Out: the same strings, or InvalidInput with the path of the wrong field. Any kernel object that podwire
makes can thus answer "whose are you?" without a database; the full UID and generation stand in its alias.
"""

from __future__ import annotations

import hashlib
import re

from podwire.errors import InvalidInput

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*")
_QUALIFIED_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")

BRIDGE = "pw-bridge"  # the node's pod bridge
VXLAN = "pw-vxlan"  # the node's tunnel end
POD_LINK_PREFIX = "v"  # host ends: "v" + 12 hex digits
NFT_TABLE = "podwire"  # our table, in each nftables family we use
ROUTE_PROTOCOL = 77  # marks our routes (rtm_protocol); below 80, which Calico uses


def dns_label(value: str, field: str) -> str:
    """An RFC 1123 label (at most 63 characters); raises InvalidInput."""
    if not _LABEL.fullmatch(value):
        raise InvalidInput(
            f"{field}: {value!r} is not a DNS label: use at most 63 lower-case letters, digits and '-', starting and ending with a letter or digit",
            field=field,
        )
    return value


def dns_subdomain(value: str, field: str) -> str:
    """An RFC 1123 subdomain (labels joined by dots, at most 253 characters); raises InvalidInput."""
    if len(value) > 253 or not _SUBDOMAIN.fullmatch(value):
        raise InvalidInput(
            f"{field}: {value!r} is not a DNS subdomain: use lower-case letters, digits, '-' and '.'", field=field
        )
    return value


def label_key(value: str, field: str) -> str:
    """A label or annotation key: [prefix/]name; raises InvalidInput."""
    prefix, slash, name = value.rpartition("/")
    if slash and (len(prefix) > 253 or not _SUBDOMAIN.fullmatch(prefix)):
        raise InvalidInput(f"{field}: the prefix of key {value!r} is not a DNS subdomain", field=field)
    if not _QUALIFIED_NAME.fullmatch(name):
        raise InvalidInput(
            f"{field}: {value!r} is not a valid key: at most 63 letters, digits, '-', '_' and '.'", field=field
        )
    return value


def label_value(value: str, field: str) -> str:
    """A label value: empty, or at most 63 letters, digits, '-', '_' and '.'; raises InvalidInput."""
    if value and not _QUALIFIED_NAME.fullmatch(value):
        raise InvalidInput(
            f"{field}: {value!r} is not a valid label value: at most 63 letters, digits, '-', '_' and '.'", field=field
        )
    return value


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("/".join(parts).encode()).digest()


def pod_link(cluster: str, uid: str) -> str:
    """Name of a pod's host end: 13 characters, within the kernel's 15."""
    return POD_LINK_PREFIX + _digest(cluster, "pod", uid).hex()[:12]


def _local_mac(digest: bytes) -> str:
    """Six bytes with the locally-administered bit set and the multicast bit clear (IEEE 802)."""
    first = (digest[0] & 0xFC) | 0x02
    return ":".join(f"{byte:02x}" for byte in bytes([first]) + digest[1:6])


def pod_mac(cluster: str, uid: str) -> str:
    """MAC of a pod's eth0."""
    return _local_mac(_digest(cluster, "pod-mac", uid))


def host_mac(cluster: str, uid: str) -> str:
    """MAC of a pod's host end."""
    return _local_mac(_digest(cluster, "host-mac", uid))


def bridge_mac(cluster: str, node: str) -> str:
    """MAC of a node's bridge: fixed, so that pods may hold it as a permanent neighbour."""
    return _local_mac(_digest(cluster, "bridge-mac", node))


def vtep_mac(cluster: str, node: str) -> str:
    """MAC of a node's tunnel end: peers know it without being told."""
    return _local_mac(_digest(cluster, "vtep-mac", node))
