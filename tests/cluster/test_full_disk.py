"""A cluster on a disk that is full: what runs goes on, what is there can be read and removed, and space heals it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster

# In a mount namespace of its own, so that the small disk is nobody else's and goes with it.
SCRIPT = """
mount -t tmpfs -o size=24m none "$XDG_STATE_HOME"
p() { "$PYTHON" -m podwire.cli.main --cluster test-full "$@"; }
trap 'p down' EXIT
p up --nodes 1 --driver local
p run web --image agnhost --wait
p run box --wait
p run stays --wait
head -c 30m /dev/zero > "$XDG_STATE_HOME/ballast" || true
test "$(p get pods -o name | wc -l)" = 3
! p run more --image agnhost 2> refused || exit 20
grep "error: the disk is full" refused
test "$(p exec box -- echo hi)" = hi
p delete pod web box
head -c 30m /dev/zero > "$XDG_STATE_HOME/more" || true
p node restart node-1
test "$(p get pods -o name)" = pod/stays
! p node add late 2> refused || exit 21
! grep Traceback refused || exit 22
p delete pod stays
rm "$XDG_STATE_HOME/ballast" "$XDG_STATE_HOME/more"
p run more --image agnhost --wait
"""


def test_removing_goes_on_when_the_disk_is_full(tmp_path: Path) -> None:
    """Deleting once waited for space, in the agent for its journal and in the controller for the mark that an address rests; restarting a
    node ended the whole cluster, for a line in a log.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root")
    home = tmp_path / "s"
    home.mkdir()
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-exc", SCRIPT],
        cwd=tmp_path,
        env={**os.environ, "XDG_STATE_HOME": str(home), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
