"""What the benchmarks share: a cluster for the time of a run, where the numbers were made, and how they are shown and kept.

In: rows of numbers. Out: a plain table on standard output and `benchmarks/results/NAME.json`, with the machine and the commit beside them:
a number without its machine is none. `median` and `spread` are how repeated rounds become one number.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from podwire import __version__
from podwire.seams import SystemClock

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
CLUSTER = "podwire-bench"
CLOCK = SystemClock()


def podwire(*arguments: str, cluster: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Runs the command line as a user does; ends the benchmark with its words where it fails."""
    command = [sys.executable, "-m", "podwire.cli.main", "--cluster", cluster, *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"podwire {' '.join(arguments)} failed with {done.returncode}:\n{done.stderr.strip()}")
    return done


@contextlib.contextmanager
def removed(cluster: str) -> Iterator[None]:
    """There is no cluster of that name when the block begins, and none when it has ended."""
    podwire("down", cluster=cluster)
    try:
        yield
    finally:
        podwire("down", cluster=cluster)


def machine() -> dict[str, Any]:
    """Where the numbers were made."""
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next((int(line.split()[1]) // 1024 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "processor": models[0] if models else "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": memory,
        "kernel": os.uname().release,
        "python": sys.version.split()[0],
        "load": round(os.getloadavg()[0], 2),
        "podwire": __version__,
        "commit": _commit(),
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _commit() -> str:
    """The commit, with a `+` where the tree differs from it; empty outside of a checkout."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """`median [lowest..highest]`, as the tables have it."""
    return f"{median(values):.{digits}f} [{min(values):.{digits}f}..{max(values):.{digits}f}]"


def show(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table whose first column is text and whose others are numbers."""
    widths = [max(len(row[column]) for row in (titles, *rows)) for column in range(len(titles))]
    for row in (titles, *rows):
        cells = [
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def parser_for(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIRECTORY", help="where the JSON goes (%(default)s)"
    )
    return parser


def keep(directory: Path, name: str, result: Mapping[str, Any]) -> Path:
    """Writes a result with the machine's facts; returns where."""
    directory.mkdir(exist_ok=True)
    path = directory / f"{name}.json"
    path.write_text(json.dumps({"benchmark": name, "machine": machine(), **result}, indent=2) + "\n")
    return path
