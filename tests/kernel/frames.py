"""Forged frames for the packet tests, packed by hand so that nothing corrects them on the way."""

from __future__ import annotations

import ipaddress
import socket
import struct

from podwire.model.addresses import IPAddress

BROADCAST = b"\xff" * 6


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def ethernet(target: bytes, source: bytes, kind: int, payload: bytes) -> bytes:
    return target + source + struct.pack(">H", kind) + payload


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def arp_reply(frame_source: str, sender_mac: str, sender: IPAddress, target_mac: str, target: IPAddress) -> bytes:
    body = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 2) + mac_bytes(sender_mac) + sender.packed
    body += mac_bytes(target_mac) + target.packed
    return ethernet(mac_bytes(target_mac), mac_bytes(frame_source), 0x0806, body)


def neighbour_advertisement(
    source_mac: str, source: IPAddress, claimed: IPAddress, target_mac: str, target: IPAddress
) -> bytes:
    """Says that `claimed` is at `source_mac`, overriding what was known."""
    body = struct.pack(">BBHI", 136, 0, 0, 0x60000000) + claimed.packed + b"\x02\x01" + mac_bytes(source_mac)
    pseudo = source.packed + target.packed + struct.pack(">II", len(body), 58)
    body = body[:2] + struct.pack(">H", checksum(pseudo + body)) + body[4:]
    head = struct.pack(">IHBB", 0x60000000, len(body), 58, 255) + source.packed + target.packed
    return ethernet(mac_bytes(target_mac), mac_bytes(source_mac), 0x86DD, head + body)


def udp_packet(source: IPAddress, target: IPAddress, port: int, payload: bytes) -> bytes:
    """A whole IPv4 UDP packet without UDP checksum."""
    udp = struct.pack(">HHHH", 4000, port, 8 + len(payload), 0) + payload
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + source.packed + target.packed
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + udp


def vxlan(vni: int, inner: bytes) -> bytes:
    """The payload of a VXLAN datagram."""
    return struct.pack(">II", 0x08000000, vni << 8) + inner


def inner_source(frame: bytes, port: int) -> IPAddress | None:
    """The inner IPv4 source of a captured frame when it is VXLAN over IPv4 to this port."""
    if frame[12:14] != b"\x08\x00" or frame[23] != socket.IPPROTO_UDP or frame[36:38] != struct.pack(">H", port):
        return None
    inner = frame[50:]
    return ipaddress.IPv4Address(inner[26:30]) if inner[12:14] == b"\x08\x00" else None
