"""What this kernel can do, found out by doing it in a scratch namespace.

In: nothing. Out: name → (available, detail) for `doctor`, the agent's hello and the tests. Nothing is read from version numbers or
configuration files: a feature counts as present when its use succeeded, and absent with the kernel's own reason.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Callable
from pathlib import Path

from nodeagent.kernel import netns, rtnl
from nodeagent.kernel.netlink import CREATE, EXCL, NetlinkSocket, attr_string, message, nested
from nodeagent.kernel.nft import run_commands
from podwire.errors import KernelError, Unsupported

_MAC = "02:00:00:00:00:01"


def capabilities() -> dict[str, tuple[bool, str]]:
    """Probes everything; takes some milliseconds."""
    try:
        return netns.run_in_new(_probe_all)
    except OSError as error:
        reason = f"no network namespace can be made: {os.strerror(error.errno or errno.EIO)}"
        return dict.fromkeys(_PROBES, (False, reason))


def _probe_all() -> dict[str, tuple[bool, str]]:
    rtnetlink = NetlinkSocket()
    try:
        return {name: _attempt(lambda probe=probe: probe(rtnetlink)) for name, probe in _PROBES.items()}  # type: ignore[misc]
    finally:
        rtnetlink.close()


def _attempt(probe: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, probe()
    except (KernelError, Unsupported) as error:
        return False, error.message
    except OSError as error:
        return False, os.strerror(error.errno or errno.EIO)


def _create(rtnetlink: NetlinkSocket, packed: bytes, what: str) -> None:
    (refused,) = rtnetlink.request([packed])
    if refused is not None:
        raise refused.error("create", what)


def _plain_link(kind: str, name: str) -> bytes:
    return message(rtnl.NEW_LINK, CREATE | EXCL, rtnl.link_header(), rtnl.name(name), nested(18, attr_string(1, kind)))


def _vxlan(rtnetlink: NetlinkSocket) -> str:
    local = ipaddress.IPv4Address("127.0.0.1")
    packed = rtnl.create_vxlan("probe-vxlan", _MAC, 1400, vni=1, port=4789, local=local, lower=0)
    _create(rtnetlink, packed, "a VXLAN device")
    return "VXLAN devices can be made"


def _bridge(rtnetlink: NetlinkSocket) -> str:
    _create(rtnetlink, rtnl.create_bridge("probe-bridge", _MAC, 1400), "a bridge")
    return "bridges can be made"


def _nft(family: str, rules: str) -> str:
    run_commands(f"add table {family} probe\ntable {family} probe {{\n{rules}\n}}\n", f"nft table {family} probe")
    return f"nftables tables of family {family} load"


def _nft_bridge(_: NetlinkSocket) -> str:
    return _nft(
        "bridge",
        "set s { type ifname . ether_addr . ipv4_addr; }\n"
        "chain c { type filter hook prerouting priority -300; iifgroup 1885 iifname . ether saddr . ip saddr != @s drop; }",
    )


def _nft_ip(_: NetlinkSocket) -> str:
    return _nft(
        "ip",
        "chain c { type nat hook postrouting priority 100; ip saddr 10.0.0.0/8 masquerade; }\n"
        "chain d { type filter hook prerouting priority -300; fib daddr type local accept; }",
    )


def _nft_ip6(_: NetlinkSocket) -> str:
    return _nft(
        "ip6",
        "chain c { type nat hook postrouting priority 100; ip6 saddr fd00::/8 masquerade; }\n"
        "chain d { type filter hook prerouting priority -300; fib daddr type local accept; }",
    )


def _bridge_nf(_: NetlinkSocket) -> str:
    if not Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists():
        raise Unsupported("bridged frames cannot visit the IP hooks: br_netfilter is not loaded")
    return "bridged frames can visit the IP hooks"


def _ipv6(_: NetlinkSocket) -> str:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        probe.bind(("::", 0))
    return "IPv6 sockets can be bound"


def _sctp(_: NetlinkSocket) -> str:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, socket.IPPROTO_SCTP).close()
    return "SCTP sockets can be made"


def _wireguard(rtnetlink: NetlinkSocket) -> str:
    _create(rtnetlink, _plain_link("wireguard", "probe-wg"), "a WireGuard device")
    return "WireGuard devices can be made"


def _netem(rtnetlink: NetlinkSocket) -> str:
    # struct tcmsg for lo, root; struct tc_netem_qopt without impairments.
    head = bytes((0, 0, 0, 0)) + (1).to_bytes(4, "little") + bytes(4) + b"\xff\xff\xff\xff" + bytes(4)
    packed = message(rtnl.NEW_QDISC, CREATE | EXCL, head, attr_string(1, "netem"), nested(2, bytes(24)))
    _create(rtnetlink, packed, "a netem queue")
    return "delay and loss can be injected"


_PROBES: dict[str, Callable[[NetlinkSocket], str]] = {
    "vxlan": _vxlan,
    "bridge": _bridge,
    "nft-bridge": _nft_bridge,
    "nft-ip": _nft_ip,
    "nft-ip6": _nft_ip6,
    "bridge-nf": _bridge_nf,
    "ipv6": _ipv6,
    "sctp": _sctp,
    "wireguard": _wireguard,
    "netem": _netem,
}
