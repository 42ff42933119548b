"""Commands beside containers, with the real helper: pipes, terminals, exit codes, cancelling, and where they run."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from nodeagent.pods.base import ContainerRun
from nodeagent.pods.exec import ExecSession
from podwire.errors import KernelError, NotFound
from tests.kernel.helper.helper_node import Node, wait_until

pytestmark = pytest.mark.kernel


async def collected(session: ExecSession) -> tuple[bytes, bytes, int]:
    parts: dict[str, bytes] = {"stdout": b"", "stderr": b""}
    async with session, asyncio.timeout(20):
        async for chunk in session.output():
            parts[chunk.stream] += chunk.data
        return parts["stdout"], parts["stderr"], await session.wait()


async def sleeper(node: Node, **more: object) -> ContainerRun:
    run: ContainerRun = node.container(node.sandbox(), "sleep", "1000", more=more)
    await node.runner().start(run)
    return run


def hosted(node: Node) -> ContainerRun:
    run: ContainerRun = node.container(node.sandbox(), "netexec", more={"program": "netexec"})
    return run


async def test_a_command_joins_its_container(node: Node) -> None:
    run = await sleeper(node)
    script = "echo $GREETING; echo oops >&2; cat /proc/1/comm; touch /tmp/seen; exit 9"
    out, err, code = await collected(await node.execs().start(run, ["sh", "-c", script]))
    assert (out, err, code) == (b"hello\npodwire-init\n", b"oops\n", 9)
    out, _, _ = await collected(await node.execs().start(run, ["ls", "/tmp/seen"]))
    assert out == b"/tmp/seen\n"


async def test_a_hosted_container_gets_a_root_of_its_own_in_the_pod(node: Node) -> None:
    run = hosted(node)
    script = "hostname; readlink /proc/self/ns/net; cat /etc/resolv.conf; test -x /agnhost && echo agnhost; exit 4"
    out, _, code = await collected(await node.execs().start(run, ["sh", "-c", script]))
    assert code == 4
    assert out.decode().splitlines() == [
        "pod-a",
        f"net:[{run.sandbox.netns_inode}]",
        "nameserver 192.0.2.53",
        "agnhost",
    ]


async def test_the_nodes_interpreter_and_packages_work_in_a_container(node: Node) -> None:
    script = "sed 's/-m nodeagent.*/-c \"import nodeagent.pods.base, msgspec; print(1)\"/' /agnhost > /tmp/a; sh /tmp/a"
    out, err, code = await collected(await node.execs().start(hosted(node), ["sh", "-c", script]))
    assert (out, err, code) == (b"1\n", b"", 0)


@pytest.mark.parametrize("kind", ["process", "hosted"])
async def test_binary_input_comes_back_whole(node: Node, kind: str) -> None:
    run = await sleeper(node) if kind == "process" else hosted(node)
    data = os.urandom(3_000_000)
    session = await node.execs().start(run, ["cat"], stdin=True)

    async def type_it() -> None:
        await session.write(data)
        await session.close_stdin()

    typing = asyncio.create_task(type_it())
    out, err, code = await collected(session)
    await typing
    assert (len(out), out == data, err, code) == (3_000_000, True, b"", 0)


@pytest.mark.parametrize("kind", ["process", "hosted"])
async def test_a_terminal_is_the_commands_own(node: Node, kind: str) -> None:
    run = await sleeper(node) if kind == "process" else hosted(node)
    script = "tty; test -e $(tty) && stty size; trap 'stty size; exit 6' WINCH; echo ready; while :; do read x; done"
    session = await node.execs().start(run, ["sh", "-c", script], tty=True, size=(30, 100))
    seen = b""
    async with session, asyncio.timeout(20):
        async for chunk in session.output():
            assert chunk.stream == "stdout"
            seen += chunk.data
            if b"ready" in seen:
                session.resize(40, 120)
                await session.write(b"\n")
        code = await session.wait()
    lines = [line for line in seen.decode().split("\r\n") if line]
    assert lines[:3] == ["/dev/pts/0", "30 100", "ready"]
    assert "40 120" in lines
    assert code == 6


async def test_interrupt_from_the_keyboard(node: Node) -> None:
    session = await node.execs().start(await sleeper(node), ["sleep", "1000"], tty=True)
    await session.write(b"\x03")
    assert await collected(session) == (b"^C", b"", 130)


@pytest.mark.parametrize("kind", ["process", "hosted"])
async def test_a_client_that_leaves_ends_its_command(node: Node, kind: str) -> None:
    run = await sleeper(node) if kind == "process" else hosted(node)
    marker = f"4{os.getpid()}"
    async with await node.execs().start(run, ["sh", "-c", f"echo up; sleep {marker}"]) as session:
        async for _ in session.output():
            break
        wait_until(lambda: bool(commands(marker)), "the command")
    wait_until(lambda: not commands(marker), "the command's end")


async def test_output_that_nobody_reads_waits_in_the_pipe(node: Node) -> None:
    async with await node.execs().start(await sleeper(node), ["yes"]) as session:
        taken = 0
        async for chunk in session.output():
            taken += len(chunk.data)
            if taken > 1_000_000:
                break


async def test_what_cannot_run_says_why(node: Node) -> None:
    run = await sleeper(node)
    for tty in (False, True):
        with pytest.raises(KernelError, match="exec nothing-here: No such file") as raised:
            await node.execs().start(run, ["nothing-here"], tty=tty)
        assert raised.value.errno == 2
    await node.runner().stop(run.id, 0)
    await node.runner().wait(run.id, run.directory)
    with pytest.raises(NotFound, match="does not run"):
        await node.execs().start(run, ["true"])


async def test_a_container_that_ends_takes_its_commands_along(node: Node) -> None:
    run = await sleeper(node)
    session = await node.execs().start(run, ["sleep", "1000"])
    await node.runner().stop(run.id, 0)
    assert (await collected(session))[2] == 137


def commands(marker: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if f"sleep\0{marker}\0".encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found
