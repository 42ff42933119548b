"""A failed sync of the disk, injected into the running process by strace."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from controller.store.sqlite import open_sqlite
from podwire.seams import SeededRng

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace injects the errors"),
]

WRITER = """
import asyncio, sys
from pathlib import Path
from controller.store.base import Put
from controller.store.sqlite import open_sqlite
from podwire.seams import SystemRng

async def main():
    store = await open_sqlite(Path(sys.argv[1]), SystemRng(), reserve_bytes=4096)
    for n in range(1000):
        await store.transact((), [Put(f"/{n}", b"value")])
        print(f"/{n}", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("when", [25, 26, 27, 28, 29, 30])
def test_a_failed_sync_ends_the_process_and_loses_nothing_acknowledged(tmp_path: Path, when: int) -> None:
    """At each of the syncs that make up a commit."""
    path = tmp_path / "store.db"
    inject = ["-e", "trace=fdatasync,fsync", "-e", f"inject=fdatasync,fsync:error=EIO:when={when}"]
    command = ["strace", "-f", "-qq", "-o", "/dev/null", *inject, sys.executable, "-c", WRITER, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 74
    assert "exiting: disk I/O error" in done.stderr
    acknowledged = set(done.stdout.split())
    assert acknowledged

    async def reopened() -> set[str]:
        store = await open_sqlite(path, SeededRng(1), reserve_bytes=4096)
        keys = {entry.key for entry in (await store.list("/"))[0]}
        await store.close()
        return keys

    assert acknowledged <= asyncio.run(reopened())
