"""Containers that are processes, with the real helper: file system, namespaces, exit codes, signals, logs, and who outlives whom."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from pathlib import Path

import pytest

from nodeagent.kernel.procs import open_pidfd
from nodeagent.pods.base import ContainerRun, Exit
from podwire.errors import KernelError, NotFound
from tests.kernel.helper.helper_node import Node, wait_until

pytestmark = pytest.mark.kernel

KERNEL = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
CRI_LINE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) [FP] ")


def text_of(run: ContainerRun) -> str:
    lines = (run.directory / "log").read_text().splitlines()
    assert all(CRI_LINE.match(line) for line in lines)
    return "\n".join(line.split(" ", 3)[3] for line in lines)


def machine_limit() -> int:
    return int(Path("/proc/sys/kernel/pid_max").read_text())


async def ran(node: Node, run: ContainerRun) -> tuple[Exit, str]:
    runner = node.runner()
    await runner.start(run)
    end = await asyncio.wait_for(runner.wait(run.id, run.directory), 20)
    return end, text_of(run)


async def test_a_command_runs_to_its_end_and_leaves_code_and_log(node: Node) -> None:
    run = node.container(node.sandbox(), "sh", "-c", "echo $GREETING; echo bad >&2; exit 3")
    end, text = await ran(node, run)
    assert (end.code, end.signal, end.reason) == (3, 0, "Error")
    assert 0 < end.started_unix_ms <= end.finished_unix_ms
    assert sorted(text.splitlines()) == ["bad", "hello"]
    assert await node.runner().running() == frozenset()
    assert list((node.run_dir / "containers").iterdir()) == []


async def test_the_root_is_the_containers_own(node: Node) -> None:
    script = f"""
    hostname; cat /etc/resolv.conf /etc/hostname; getent hosts 00000000000a.test; ls -d /agnhost; test -x /agnhost && echo runs
    for d in / /tmp /run /var/lib /root /home /srv /dev/shm; do touch $d/x || echo cannot write $d; done
    touch /usr/x /etc/x 2>/dev/null && echo wrote; echo 1 2>/dev/null > /proc/sys/net/ipv4/ip_forward && echo wrote sysctl
    ls /proc | grep -c '^[0-9]'; for f in null zero full random urandom tty ptmx pts shm; do test -e /dev/$f || echo no $f; done
    test -e /.node && echo node seen; test -e {node.directory} && echo state seen; cat /proc/1/comm; ls /sys/class/net; pwd
    """
    end, text = await ran(
        node, node.container(node.sandbox(), "sh", "-c", script, more={"working_dir": "/made/for/me"})
    )
    assert end.code == 0
    lines = text.splitlines()
    assert lines[:6] == [
        "pod-a",
        "nameserver 192.0.2.53",
        "pod-a",
        "127.0.0.1       localhost 00000000000a.test",
        "/agnhost",
        "runs",
    ]
    processes, *rest = lines[6:]
    assert int(processes) <= 5
    assert rest == ["podwire-init", "lo", "/made/for/me"]


async def test_secrets_of_the_node_are_not_shown(node: Node) -> None:
    """The node's /etc is visible, and with the local driver that is the machine's: its password hashes and keys are not."""
    script = "cat /etc/shadow 2>/dev/null | wc -c; find /etc/ssl/private/ /etc/ssh/ -type f | wc -l; grep -c root: /etc/passwd"
    _, text = await ran(node, node.container(node.sandbox(), "sh", "-c", script))
    assert text.split()[-1] == "1"
    assert text.split()[0] == text.split()[-2] == "0"


async def test_the_environment_of_whoever_started_the_cluster_is_not_shown(tmp_path: Path, helper_binary: Path) -> None:
    """`cat /proc/1/environ` in a pod once listed it, with every token that a shell or a build server keeps there."""
    node = Node(tmp_path, helper_binary)
    node.serve("env", "MY_TOKEN=hunter2")
    try:
        first = node.container(
            node.sandbox(), "sh", "-c", "true", more={"env": (("PADDING", "x" * 50_000), ("OTHERS", "hunter3"))}
        )
        await ran(node, first)
        script = "tr '\\0' '\\n' < /proc/1/environ"
        memory = "import re; maps = open('/proc/1/maps').read(); mem = open('/proc/1/mem', 'rb')\n"
        memory += "for low, high in re.findall(r'^(\\w+)-(\\w+) rw', maps, re.M):\n"
        memory += "    mem.seek(int(low, 16)); print('seen', b'hunt' b'er3' in mem.read(int(high, 16) - int(low, 16)))"
        _, text = await ran(node, node.container(node.sandbox(), "sh", "-c", f'{script}; python3 -c "{memory}"'))
        assert "hunter2" not in text
        assert "seen False" in text
        assert "seen True" not in text
    finally:
        node.end()


@pytest.mark.skipif(KERNEL < (6, 14), reason="the kernel counts processes for the whole machine only")
async def test_a_fork_bomb_ends_at_a_number(node: Node) -> None:
    """It once took the machine: nothing but the kernel's own limit stood in its way. Here 2,048 processes are all it gets."""
    before = machine_limit()
    bomb = "i=0; while [ $i -lt 3000 ]; do sleep 30 & i=$((i+1)); done; echo all started"
    end, text = await ran(node, node.container(node.sandbox(), "sh", "-c", f"cat /proc/sys/kernel/pid_max; {bomb}"))
    assert text.startswith("2048\n")
    assert "all started" not in text
    assert "fork" in text.lower()
    assert end.code != 0
    assert machine_limit() == before


async def test_proc_1_fd_1_is_the_log(node: Node) -> None:
    """Scripts write there from anywhere in a container, as its first process is the command elsewhere."""
    _, text = await ran(
        node, node.container(node.sandbox(), "sh", "-c", "echo one; echo two > /proc/1/fd/1; echo three > /proc/1/fd/2")
    )
    assert sorted(text.split()) == ["one", "three", "two"]


async def test_rights_are_a_container_engines_defaults(node: Node) -> None:
    async def rights(**more: object) -> dict[str, str]:
        _, text = await ran(node, node.container(sandbox, "grep", "-E", "Cap|NoNew", "/proc/self/status", more=more))
        return {line.split(":")[0]: line.split()[1] for line in text.splitlines()}

    sandbox = node.sandbox()
    defaults = await rights()
    assert defaults["CapEff"] == defaults["CapBnd"] == "00000000a80425fb"
    assert defaults["NoNewPrivs"] == "1"
    changed = await rights(add_capabilities=("NET_ADMIN",), drop_capabilities=("ALL",))
    assert changed["CapBnd"] == f"{1 << 12:016x}"
    assert int((await rights(privileged=True))["CapEff"], 16) & 1 << 21


async def test_two_containers_meet_on_localhost_and_have_their_own_processes(node: Node) -> None:
    sandbox = node.sandbox()
    script = "import http.server as h; h.HTTPServer(('127.0.0.1', 8080), h.SimpleHTTPRequestHandler)"
    up = "import socket,struct,fcntl; s=socket.socket(); fcntl.ioctl(s,0x8914,struct.pack('16sh14x',b'lo',0x1))"
    await ran(node, node.container(sandbox, "/usr/bin/python3", "-c", up, more={"add_capabilities": ("NET_ADMIN",)}))
    server = node.container(sandbox, "/usr/bin/python3", "-c", f"{script}.serve_forever()", name="server")
    await node.runner().start(server)
    get = "import urllib.request as u, os; print(u.urlopen('http://127.0.0.1:8080/').status, os.getpid() < 10)"
    client = f"""
    until /usr/bin/python3 -c "{get}" 2>/dev/null; do :; done; /usr/bin/python3 -c "{script}" 2>&1 | tail -1
    """
    _, text = await ran(node, node.container(sandbox, "sh", "-c", client, name="client"))
    lines = text.splitlines()
    assert lines[0] == "200 True"
    assert "Address already in use" in lines[1]
    await node.runner().stop(server.id, 0)


async def test_term_reaches_the_command_and_grace_ends_it(node: Node) -> None:
    runner, sandbox = node.runner(), node.sandbox()
    polite = node.container(sandbox, "sh", "-c", "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done")
    await runner.start(polite)
    until_log(polite, "up")
    await runner.stop(polite.id, 10)
    assert (await runner.wait(polite.id, polite.directory)).code == 7
    assert text_of(polite).splitlines() == ["up", "bye"]
    deaf = node.container(sandbox, "sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done")
    await runner.start(deaf)
    until_log(deaf, "up")
    await runner.stop(deaf.id, 0.2)
    end = await runner.wait(deaf.id, deaf.directory)
    assert (end.code, end.signal) == (137, 9)
    await runner.stop(deaf.id, 1)  # what is gone is gone


async def test_a_signal_shows_in_the_exit(node: Node) -> None:
    end, _ = await ran(node, node.container(node.sandbox(), "sh", "-c", "kill -SEGV $$"))
    assert (end.code, end.signal) == (139, 11)


async def test_a_command_that_does_not_exist_leaves_nothing(node: Node) -> None:
    run = node.container(node.sandbox(), "no-such-command")
    with pytest.raises(KernelError, match="exec no-such-command: No such file") as raised:
        await node.runner().start(run)
    assert raised.value.errno == 2
    assert list(run.directory.iterdir()) == []
    assert list((node.run_dir / "containers").iterdir()) == []
    with pytest.raises(NotFound):
        await node.runner().wait(run.id, run.directory)


async def test_long_lines_are_continued_and_unfinished_ones_kept(node: Node) -> None:
    run = node.container(node.sandbox(), "sh", "-c", "head -c 40000 /dev/zero | tr '\\0' x; echo; printf end")
    await ran(node, run)
    lines = [line.split(" ", 3)[2:] for line in (run.directory / "log").read_text().splitlines()]
    assert [(tag, len(text)) for tag, text in lines] == [("P", 16384), ("P", 16384), ("F", 7232), ("F", 3)]


async def test_the_log_is_bounded(node: Node) -> None:
    run = node.container(node.sandbox(), "sh", "-c", "yes 0123456789012345678901234567890123456789 | head -c 20000000")
    await ran(node, run)
    sizes = {path.name: path.stat().st_size for path in run.directory.iterdir() if path.name.startswith("log")}
    assert set(sizes) == {"log", "log.1"}
    assert all(size <= 10 * 1024 * 1024 for size in sizes.values())


async def test_the_end_is_on_disk_when_no_agent_and_no_helper_lives(node: Node) -> None:
    gate = node.directory / "pods" / "gate"
    run = node.container(
        node.sandbox(), "sh", "-c", "echo on; read line < /proc/self/fd/0; sleep 0.3; echo off; exit 5"
    )
    await node.runner().start(run)
    record = node.runner().record(run.id)
    assert record is not None
    node.kill_helper()
    assert await node.runner().running() == {run.id}
    end = await asyncio.wait_for(node.runner().wait(run.id, run.directory), 10)
    assert end.code == 5
    assert text_of(run).splitlines() == ["on", "off"]
    assert json.loads((run.directory / "exit.json").read_bytes())["code"] == 5
    assert not gate.exists()
    node.serve()
    assert (await ran(node, node.container(run.sandbox, "true")))[0].code == 0


async def test_a_killed_waiter_takes_its_container_along_and_is_called_137(node: Node) -> None:
    run = node.container(node.sandbox(), "sleep", "1000")
    runner = node.runner()
    await runner.start(run)
    await runner.start(run)  # again is nothing
    record = runner.record(run.id)
    assert record is not None
    waiting = asyncio.create_task(runner.wait(run.id, run.directory))
    os.kill(record.waiter, signal.SIGKILL)
    end = await asyncio.wait_for(waiting, 10)
    assert (end.code, end.signal, end.reason) == (137, 9, "Error")
    assert "waiter" in end.message
    assert await runner.wait(run.id, run.directory) == end
    assert open_pidfd(record.init_id) is None


async def test_records_of_another_boot_are_not_believed(node: Node) -> None:
    run = node.container(node.sandbox(), "sleep", "1000")
    await node.runner().start(run)
    assert await node.runner("boot-2").running() == frozenset()
    assert await node.runner().running() == {run.id}


def until_log(run: ContainerRun, text: str) -> None:
    log = run.directory / "log"
    wait_until(lambda: log.exists() and text in log.read_text(), f"{text} in the log")
