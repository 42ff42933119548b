"""The local driver leaves a machine as it was: links, routes, rules, settings, mounts, processes and files.

The machine is a network and a mount namespace of the test's own, so that nobody else's doings are compared; what no namespace holds
(processes, settings of the whole kernel) is compared as it is.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces: needs root")]

# Counters, and what every new process changes.
_RESTLESS = "ns_last_pid|/random/|nr_open_files|/net/netfilter/nf_log"
LOOK = rf"""
ip -o link; ip -o address; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; ip -j neighbour; ip netns list
nft --stateless list ruleset
cat /proc/self/mounts
find /proc/sys -type f -perm -0200 | grep -Ev '{_RESTLESS}' | LC_ALL=C sort | xargs grep -sH '' || true
ls -A /run
"""
SCRIPT = """
set -e
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
ip link set lo up
ip link add host0 type veth peer name host1
ip address add 192.0.2.7/24 dev host0
ip link set host0 up addrgenmode none
ip link set host1 up addrgenmode none
ip route add default via 192.0.2.1
nft add table inet mine
look > "$HERE/before"
trap 'podwire down' EXIT
podwire up --driver local --nodes 2
podwire run web --image agnhost --port 8080 --node node-1 --wait
podwire run shell --image podwire/shell --node node-2 --wait
podwire test pingall
look > "$HERE/during"
grep -slzxF "XDG_STATE_HOME=$XDG_STATE_HOME" /proc/[0-9]*/environ > "$HERE/processes" || true
podwire down
look > "$HERE/after"
"""


def test_down_leaves_the_machine_as_it_was(tmp_path: Path) -> None:
    state = tmp_path / "state"
    podwire = f"{Path(sys.executable).parent}/podwire --cluster test-traces"
    functions = f'look() {{ {LOOK} }}\npodwire() {{ {podwire} "$@"; }}\n'
    environment = os.environ | {"XDG_STATE_HOME": str(state), "HERE": str(tmp_path)}
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", functions + SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    before, during, after = ((tmp_path / name).read_text().splitlines() for name in ("before", "during", "after"))
    assert len(before) > 500, "the settings were not read"
    assert (tmp_path / "processes").read_text().count("/environ") > 8
    assert processes_of(state) == []
    assert during == before, "a cluster that runs is not seen on its machine"
    assert after == before
    assert not (state / "podwire" / "test-traces").exists()


def processes_of(state: Path) -> list[str]:
    """Everything that descends from a command with this state directory: its environment says so."""
    mark = f"XDG_STATE_HOME={state}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "comm").read_text())
    return found
