"""Sandboxes with the real helper: made in batches, found by their files, ended without a trace, and independent of the helper's life."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.kernel.base import Failure, Sandbox
from nodeagent.kernel.procs import ProcessId, alive
from podwire.errors import KernelError, Unavailable
from podwire.seams import SeededRng, SystemClock
from tests.kernel.helper.helper_node import Node, wait_until

pytestmark = pytest.mark.kernel


def slots(count: int) -> list[tuple[str, str]]:
    return [(f"{number:012x}", f"pod-{number}") for number in range(1, count + 1)]


def made_of(node: Node, count: int) -> list[Sandbox]:
    results = node.spawner().create(slots(count))
    made = [one for one in results if isinstance(one, Sandbox)]
    assert len(made) == len(results) == count, results
    return made


def test_a_batch_is_made_found_and_ended(node: Node) -> None:
    spawner = node.spawner()
    made = made_of(node, 150)
    assert len({one.netns_inode for one in made}) == 150
    assert spawner.existing() == made
    assert node.spawner().create(slots(150)) == made, "again makes nothing"
    one = made[0]
    assert Path(one.pin).stat().st_ino == one.netns_inode == Path(f"/proc/{one.pid}/ns/net").stat().st_ino
    assert Path(f"/proc/{one.pid}/comm").read_text() == "pause\n"
    assert not any(Path(f"/proc/{one.pid}/fd").iterdir())
    status = Path(f"/proc/{one.pid}/status").read_text()
    assert all(f"{kind}:\t{0:016x}" in status for kind in ("CapEff", "CapPrm"))
    assert not spawner.gone(one)
    assert spawner.delete(made) == [None] * 150
    assert spawner.existing() == []
    assert all(spawner.gone(one) for one in made)
    assert not any(alive(ProcessId(one.pid, one.start_time)) for one in made)
    assert spawner.delete(made) == [None] * 150, "what is gone counts as deleted"


def test_the_hostname_is_the_sandboxes_own_and_can_change(node: Node) -> None:
    sandbox = node.sandbox(hostname="first")
    read = ["nsenter", f"--uts=/proc/{sandbox.pid}/ns/uts", "hostname"]
    assert subprocess.check_output(read, text=True) == "first\n"
    node.spawner().adopt(sandbox, "second")
    assert subprocess.check_output(read, text=True) == "second\n"
    assert socket.gethostname() not in ("first", "second")
    with pytest.raises(KernelError, match="find sandbox"):
        node.spawner().adopt(replace(sandbox, start_time=1), "third")


def test_a_socket_keeps_the_namespace_until_it_is_closed(node: Node) -> None:
    sandbox = node.sandbox()
    holder = subprocess.Popen(
        ["nsenter", f"--net={sandbox.pin}", "sleep", "1000"],
    )
    clock = SystemClock()
    while Path(f"/proc/{holder.pid}/ns/net").stat().st_ino != sandbox.netns_inode:
        clock.pause(0.01)
    spawner = node.spawner()
    assert spawner.delete([sandbox]) == [None]
    assert not spawner.gone(sandbox)
    holder.kill()
    holder.wait()
    assert spawner.gone(sandbox)


def test_killing_the_helper_ends_nothing(node: Node) -> None:
    before = made_of(node, 3)
    node.kill_helper()
    assert node.spawner().existing() == before
    with pytest.raises(Unavailable, match="did not answer"):
        type(node.spawner())(node.socket_path, node.run_dir, timeout_s=0.1).create([("ff", "x")])
    node.serve()
    assert node.spawner().create(slots(3)) == before
    assert node.spawner().delete(before) == [None] * 3


def test_dead_and_half_made_ones_are_reported_and_made_anew(node: Node) -> None:
    spawner = node.spawner()
    killed, unpinned = made_of(node, 2)
    os.kill(killed.pid, signal.SIGKILL)
    subprocess.run(["umount", unpinned.pin], check=True)
    Path(node.run_dir / "sandboxes" / "00000000000f.net").touch()
    while alive(ProcessId(killed.pid, killed.start_time)):
        SystemClock().pause(0.01)
    assert [(one.slot[-1], one.pid) for one in spawner.existing()] == [("1", 0), ("2", 0), ("f", 0)]
    assert not {one.pid for one in made_of(node, 2)} & {0, killed.pid, unpinned.pid}
    assert not alive(ProcessId(unpinned.pid, unpinned.start_time))


def test_an_outdated_view_of_a_sandbox_still_ends_it(node: Node) -> None:
    sandbox = node.sandbox()
    assert node.spawner().delete([replace(sandbox, pid=os.getpid(), start_time=1)]) == [None]
    assert not alive(ProcessId(sandbox.pid, sandbox.start_time))


def test_one_bad_item_does_not_hold_up_the_others(node: Node) -> None:
    bad_slot, bad_host, good = node.spawner().create([("../../x", "a"), ("0a", "h" * 65), ("0b", "ok")])
    assert isinstance(bad_slot, Failure)
    assert isinstance(bad_host, Failure)
    assert isinstance(good, Sandbox)


def test_random_messages_do_no_harm(node: Node) -> None:
    """Ten thousand requests made of the protocol's words and of noise: the helper answers or hangs up, and goes on."""
    chance = SeededRng(7)
    words = [
        b"create",
        b"delete",
        b"hostname",
        b"gone",
        b"run",
        b"exec",
        b"0a",
        b"0b",
        b"1",
        b"99999999999999999999",
        b"-1",
    ]
    words += [
        b"arg=true",
        b"sandbox=1:1",
        b"join=1:2",
        b"files=/",
        b"tty=1x1",
        b"env=",
        b"capabilities=zz",
        b"=",
        b"x" * 5000,
    ]
    pipe = os.pipe()
    connection: socket.socket | None = None
    for _ in range(10_000):
        if connection is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            connection.settimeout(10)
            connection.connect(str(node.socket_path))
        noise = chance.token(int(chance.uniform(0, 40)))
        choices = [words[int(chance.uniform(0, len(words) - 0.001))] for _ in range(int(chance.uniform(1, 12)))]
        message = b"\0".join([*choices, noise])
        try:
            socket.send_fds(connection, [message], pipe if chance.uniform(0, 1) < 0.1 else [])
            if connection.recv(70_000):
                continue
        except (BrokenPipeError, ConnectionResetError):
            pass
        connection.close()
        connection = None
    if connection:
        connection.close()
    for fd in pipe:
        os.close(fd)
    assert node.process.poll() is None
    descriptors = Path(f"/proc/{node.process.pid}/fd")
    wait_until(lambda: len(list(descriptors.iterdir())) < 12, "no descriptor stays")
    assert isinstance(node.sandbox("00cc"), Sandbox)
