"""The helper without privileges, as a node's PID 1, and as a program that is asked for nonsense."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel.helper.helper_node import REPO, Node, wait_until

pytestmark = pytest.mark.kernel


def test_an_unprivileged_user_namespace_is_enough(tmp_path: Path, helper_binary: Path) -> None:
    enter = ["unshare", "-Urnmpf", "--mount-proc", "--propagation", "private"]
    if subprocess.run([*enter, "true"], check=False).returncode != 0:
        pytest.skip("this kernel allows no user namespaces")
    program = [sys.executable, "-m", "tests.kernel.helper.userns_node", str(tmp_path)]
    done = subprocess.run([*enter, *program], cwd=REPO, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    for line in (
        "exit 8",
        "stdout F pod-a",
        "stdout F 0",
        "stdout F lo",
        "nameserver 192.0.2.53",
        "/dev/pts/0",
        "exec 0",
    ):
        assert line in said
    assert "delete [None] True" in said


ENGINE_DEFAULTS = "chown,dac_override,fsetid,fowner,mknod,net_raw,setgid,setuid,setfcap,setpcap,net_bind_service,sys_chroot,kill,audit_write"


def proc_of(node: Node) -> Path:
    return Path(f"/proc/{node.process.pid}")


async def test_two_capabilities_beyond_a_container_engines_default_are_enough(node: Node) -> None:
    """A restricted node has NET_ADMIN and SYS_ADMIN, and neither SYS_PTRACE nor SYS_RESOURCE."""
    if shutil.which("setpriv") is None:
        pytest.skip("no setpriv")
    node.kill_helper()
    bounding = ",".join(f"+{name}" for name in [*ENGINE_DEFAULTS.split(","), "net_admin", "sys_admin"])
    node.serve("setpriv", "--inh-caps=-all", f"--bounding-set=-all,{bounding}", "--")
    run = node.container(node.sandbox(), "sh", "-c", "grep CapBnd /proc/self/status; sleep 1000")
    await node.runner().start(run)
    wait_until(lambda: "00000000a80425fb" in (run.directory / "log").read_text(), "the container's rights")
    session = await node.execs().start(run, ["tty"], tty=True)
    async with session:
        assert b"".join([chunk.data async for chunk in session.output()]) == b"/dev/pts/0\r\n"
        assert await session.wait() == 0
    await node.runner().stop(run.id, 0)


async def test_the_program_runs_from_a_sealed_copy(node: Node) -> None:
    """What a container finds behind /proc/1/exe is not the file that the node goes on using."""
    assert (proc_of(node) / "comm").read_text() == "podwire-helper\n"
    assert str((proc_of(node) / "exe").readlink()).startswith("/memfd:")
    run = node.container(node.sandbox(), "sh", "-c", "readlink /proc/1/exe; : >> /proc/1/exe")
    await node.runner().start(run)
    assert (await node.runner().wait(run.id, run.directory)).code != 0
    assert "/memfd:" in (run.directory / "log").read_text()


def test_init_ends_all_on_term_even_what_is_deaf_or_stopped(helper_binary: Path) -> None:
    """The node's PID 1 reaps orphans, and on TERM ends everything in its namespace within its patience."""
    node = subprocess.Popen(["unshare", "--pid", "--fork", "--kill-child", str(helper_binary), "init"])
    children = Path(f"/proc/{node.pid}/task/{node.pid}/children")
    wait_until(lambda: bool(children.read_text().split()), "the node's init")
    init = int(children.read_text().split()[0])
    wait_until(lambda: Path(f"/proc/{init}/comm").read_text() == "podwire-init\n", "the mode")
    inside = ["nsenter", f"--target={init}", "--pid"]
    orphan = [*inside, "sh", "-c", "setsid sleep 1000 & setsid sh -c 'kill -STOP $$' & exit 0"]
    subprocess.run(orphan, check=True)
    born = Path(f"/proc/{init}/task/{init}/children")
    wait_until(lambda: len(born.read_text().split()) == 2, "two orphans")
    os.kill(init, signal.SIGTERM)
    assert node.wait(8) == 0


def test_nonsense_is_refused_with_usage(helper_binary: Path) -> None:
    for arguments in ([], ["serve"], ["serve", "--socket"], ["dance"], ["init", "x"]):
        done = subprocess.run([helper_binary, *arguments], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.split(":")[0]) == (2, "usage")


def test_the_program_needs_no_library(helper_binary: Path) -> None:
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("no readelf")
    assert "INTERP" not in subprocess.check_output([readelf, "-l", str(helper_binary)], text=True)
