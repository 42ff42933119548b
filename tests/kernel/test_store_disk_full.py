"""The SQLite store on a disk that is really full: a small tmpfs in a mount namespace of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.kernel

FILL_AND_RELEASE = """
import asyncio, os, sys
from pathlib import Path
from controller.store.base import Put, Remove
from controller.store.sqlite import open_sqlite
from podwire.errors import Exhausted
from podwire.seams import SystemRng

disk = Path(sys.argv[1])

async def open_store():
    return await open_sqlite(disk / "store.db", SystemRng(), reserve_bytes=256 * 1024)

def fill():
    with (disk / "ballast").open("ab") as file:
        try:
            while True:
                os.write(file.fileno(), bytes(4096))
        except OSError:
            pass

async def main():
    store = await open_store()
    acknowledged = []
    for n in range(500):
        acknowledged.append(f"/{n}")
        await store.transact((), [Put(acknowledged[-1], bytes(1000))])
    fill()
    try:
        for n in range(500, 100_000):
            await store.transact((), [Put(f"/{n}", bytes(1000))])
            acknowledged.append(f"/{n}")
    except Exhausted:
        pass
    assert store.is_disk_full
    for key in acknowledged[:100]:
        await store.transact((), [Remove(key)])
    await store.transact((), [Put(acknowledged[200], b"replaced")])
    try:
        await store.transact((), [Put("/new", b"")])
        raise SystemExit("a new key was stored on a full disk")
    except Exhausted:
        pass
    await store.close()
    store = await open_store()
    kept = {entry.key for entry in (await store.list("/"))[0]}
    assert kept == set(acknowledged[100:]), "every acknowledged write and removal is there"
    await store.transact((), [Remove(acknowledged[300])])
    (disk / "ballast").unlink()
    await store.transact((), [Put("/new", b"")])
    assert not store.is_disk_full, "recovered without a restart"
    await store.close()
    print("ok", len(acknowledged))

asyncio.run(main())
"""


def test_releasing_goes_on_when_the_disk_is_full(tmp_path: Path) -> None:
    """Reads, removals and replacements succeed, new keys are refused, nothing acknowledged is lost, and space heals it."""
    inner = 'mount -t tmpfs -o size=4m none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", inner, "sh", str(tmp_path), sys.executable, FILL_AND_RELEASE],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok")
