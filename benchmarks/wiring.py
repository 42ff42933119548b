"""Pods wired per second by the kernel module alone, with namespaces made ahead: `python benchmarks/wiring.py [PODS] [ROUNDS]`.

Needs root. Prints a table and writes results as JSON lines to standard output with --json.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nodeagent.kernel.base import Sandbox
from podwire.seams import SystemClock
from tests.kernel.lab import Lab, Namespace, until


def main() -> None:
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    pods, rounds = (numbers + [200, 5][len(numbers) :])[:2]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    results = [measure(pods, number) for number in range(rounds)]
    summary = {name: round(statistics.median(result[name] for result in results), 2) for name in results[0]}
    if "--json" in sys.argv:
        print(json.dumps({"pods": pods, "rounds": rounds, "kernel": os.uname().release, **summary}))
        return
    print(f"{pods} pods, median of {rounds} rounds, kernel {os.uname().release}")
    for name, value in summary.items():
        print(f"{name:28} {value:10.1f}")


def measure(pods: int, number: int) -> dict[str, float]:
    """One node, all pods in one batch."""
    clock = SystemClock()

    def milliseconds(work: Callable[[], object]) -> float:
        start = clock.monotonic()
        work()
        return (clock.monotonic() - start) * 1000

    with Lab(nodes="a") as lab:
        lab.up()
        node, network = lab.nodes["a"], lab.network("a")
        namespaces = [Namespace() for _ in range(pods)]
        sandboxes = [
            Sandbox(f"{place:012x}", os.getpid(), 0, inside.inode, inside.path)
            for place, inside in enumerate(namespaces)
        ]
        links = [
            node.pod_link(f"uid-{number}-{place}", 2 + place % 250, sandbox.slot)
            for place, sandbox in enumerate(sandboxes)
        ]
        wired = milliseconds(lambda: node.kernel.wire(links, sandboxes))
        result = {
            "pods wired per second": pods / wired * 1000,
            "observe, ms": milliseconds(lambda: node.kernel.observe(network)),
            "observe ends, ms": milliseconds(lambda: node.kernel.observe_ends(sandboxes)),
            "wire again (no change), ms": milliseconds(lambda: node.kernel.wire(links, sandboxes)),
        }
        for inside in namespaces:
            inside.close()
        result["teardown, ms"] = milliseconds(lambda: until(lambda: not node.kernel.observe(network).pods, 60))
        return result


if __name__ == "__main__":
    main()
