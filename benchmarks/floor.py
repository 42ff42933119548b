"""What the kernel itself takes to wire pods: the floor that `bench_pods.py` is held against.

In: how many pods. Out: pods per second for "a network namespace held by a descriptor, with a veth pair whose host end is a port of a
bridge, an address, a default route, everything up": one prebuilt netlink datagram per pod, sent from inside the new namespace while a
second thread makes the next one. It shares no code with the product, so that a slow product cannot slow its own yardstick.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import queue
import resource
import socket
import struct
import threading
import time

CLONE_NEWNET = 0x40000000
REQUEST, ACK, CREATE, EXCLUSIVE = 1, 4, 0x400, 0x200
NEWLINK, NEWADDR, NEWROUTE = 16, 20, 24
UP = 1
FIRST_INDEX = 1_000_000
BRIDGE_INDEX = 100
PORTS_PER_BRIDGE = 1000

libc = ctypes.CDLL(None, use_errno=True)


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", len(data) + 4, kind) + data + b"\0" * (-len(data) % 4)


def message(kind: int, flags: int, body: bytes, number: int = 0) -> bytes:
    return struct.pack("=IHHII", len(body) + 16, kind, REQUEST | flags, number, 0) + body


def link_header(index: int = 0, flags: int = 0) -> bytes:
    return struct.pack("=BxHiII", 0, 0, index, flags, flags)


def netlink() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)


def exchange(opened: socket.socket, datagram: bytes, last: int) -> None:
    """Sends, and waits for the acknowledgement of the last message; an error of any message ends the run."""
    opened.send(datagram)
    while True:
        answer = opened.recv(8192)
        offset = 0
        while offset < len(answer):
            length, kind, _, number, _ = struct.unpack_from("=IHHII", answer, offset)
            if kind == 2:
                code = struct.unpack_from("=i", answer, offset + 16)[0]
                if code:
                    raise OSError(-code, os.strerror(-code))
                if number == last:
                    return
            offset += (length + 3) & ~3


def pod_datagram(number: int, node: int) -> bytes:
    """Everything one pod needs, in the order that the kernel wants it."""
    bridge = number // PORTS_PER_BRIDGE
    place = number % PORTS_PER_BRIDGE + 2
    address = struct.pack(">BBH", 10, 100 + bridge, place)
    gateway = struct.pack(">BBH", 10, 100 + bridge, 1)
    queues = attribute(31, struct.pack("=I", 1)) + attribute(32, struct.pack("=I", 1))
    peer = link_header(2) + attribute(3, b"eth0\0") + queues
    veth = attribute(18, attribute(1, b"veth\0") + attribute(2, attribute(1, peer)))
    host_end = (
        link_header(FIRST_INDEX + number, UP)
        + attribute(3, b"p%d\0" % number)
        + attribute(28, struct.pack("=i", node))
        + attribute(10, struct.pack("=I", BRIDGE_INDEX + bridge))
        + queues
        + veth
    )
    no_link_local = attribute(26, attribute(10, attribute(8, b"\1")))
    route = (
        struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 4, 0, 1, 0)
        + attribute(5, gateway)
        + attribute(4, struct.pack("=I", 2))
    )
    return b"".join(
        (
            message(NEWLINK, CREATE | EXCLUSIVE, host_end),
            message(NEWLINK, 0, link_header(1, UP)),
            message(
                NEWADDR,
                CREATE | EXCLUSIVE,
                struct.pack("=BBBBI", 2, 16, 0, 0, 2) + attribute(2, address) + attribute(1, address),
            ),
            message(NEWLINK, 0, link_header(2) + no_link_local),
            message(NEWLINK, 0, link_header(2, UP)),
            message(NEWROUTE, CREATE | EXCLUSIVE | ACK, route, 9),
        )
    )


def make_bridges(pods: int) -> None:
    with netlink() as opened:
        for bridge in range((pods + PORTS_PER_BRIDGE - 1) // PORTS_PER_BRIDGE):
            index = BRIDGE_INDEX + bridge
            kind = attribute(
                18, attribute(1, b"bridge\0") + attribute(2, attribute(23, b"\0"))
            )  # no multicast snooping
            address = bytes([10, 100 + bridge, 0, 1])
            exchange(
                opened,
                message(NEWLINK, CREATE | EXCLUSIVE, link_header(index, UP) + attribute(3, b"b%d\0" % bridge) + kind)
                + message(
                    NEWADDR,
                    CREATE | EXCLUSIVE | ACK,
                    struct.pack("=BBBBI", 2, 16, 0, 0, index) + attribute(2, address) + attribute(1, address),
                    9,
                ),
                9,
            )


def measure(pods: int) -> float:
    """Pods per second, in a fresh network namespace of this process."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    os.close(os.dup2(2, limit - 1))  # grows the descriptor table once; growing it later waits for other threads
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare: run as root")
    node = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    make_bridges(pods)
    made: queue.SimpleQueue[tuple[int, socket.socket]] = queue.SimpleQueue()

    def make_namespaces() -> None:
        for _ in range(pods):
            libc.unshare(CLONE_NEWNET)
            made.put((os.open("/proc/thread-self/ns/net", os.O_RDONLY), netlink()))

    started = time.perf_counter()
    maker = threading.Thread(target=make_namespaces)
    maker.start()
    held = []
    for number in range(pods):
        namespace, opened = made.get()
        with opened:
            exchange(opened, pod_datagram(number, node), 9)
        held.append(namespace)
    maker.join()
    elapsed = time.perf_counter() - started
    for namespace in held:
        os.close(namespace)
    return pods / elapsed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pods", type=int, default=200)
    print(json.dumps({"pods": (count := parser.parse_args().pods), "pods_per_s": round(measure(count), 1)}))
