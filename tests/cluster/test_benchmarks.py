"""The benchmarks run: with sizes that prove nothing about speed, and all about the scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(os.geteuid() != 0, reason="the floor needs root")]


def run(script: str, *arguments: str, results: Path) -> str:
    command = [sys.executable, str(SCRIPTS / script), "--rounds", "1", "--results", str(results), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_time_to_a_probed_mesh_is_measured(own_state: Path, tmp_path: Path) -> None:
    """A table with every stage, and the same as JSON with the machine's facts."""
    said = run("bench_up.py", "--driver", "local", "--nodes", "2", results=tmp_path)
    assert "local: podwire up" in said
    kept = json.loads((tmp_path / "up.json").read_text())
    assert kept["machine"]["cores"] >= 1
    assert kept["drivers"]["local"]["median_s"] > 0
    assert "Sending a probe across every pair of nodes" in kept["drivers"]["local"]["rounds"][0]


def test_pods_per_second_are_measured_beside_the_floor(own_state: Path, tmp_path: Path) -> None:
    """Created, seen Ready, deleted, seen gone; the floor's number comes from the same round."""
    said = run("bench_pods.py", "--pods", "6", "--nodes", "2", results=tmp_path)
    assert "hand-packed floor" in said
    kept = json.loads((tmp_path / "pods.json").read_text())
    assert kept["floor_pods_per_s"] > kept["pods_per_s"] > 0
    assert kept["rounds"][0]["deletion_s"] > 0
