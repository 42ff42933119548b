"""netexec's `/shell` with the real helper. Whoever reaches a pod's port may use it, so it must stay in the container."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.pods.base import ContainerRun
from nodeagent.pods.launch import capability_mask
from nodeagent.workload.commands import CANNOT_RUN, KILLED, OUTPUT_LIMIT_BYTES, UPLOADS, Shell, shells
from podwire.seams import SystemClock
from tests.kernel.helper.helper_node import Node

pytestmark = pytest.mark.kernel


@pytest.fixture
def run(node: Node) -> ContainerRun:
    made: ContainerRun = node.container(node.sandbox(), "netexec", more={"program": "netexec"})
    return made


@pytest.fixture
def shell(node: Node, run: ContainerRun) -> Shell:
    return shells(node.socket_path, node.run_dir, SystemClock())(run)


async def test_shell_runs_in_the_pod(shell: Shell, run: ContainerRun) -> None:
    """The pod's network, names, files and environment; both streams in order; the exit status."""
    script = "readlink /proc/self/ns/net; hostname; cat /etc/resolv.conf; echo $GREETING >&2; echo end; exit 3"
    output, status = await shell(script)
    inode = run.sandbox.netns_inode
    assert output.decode() == f"net:[{inode}]\npod-a\nnameserver 192.0.2.53\nhello\nend\n"
    assert status == 3


async def test_an_http_client_of_a_pod_is_not_root_on_the_node(shell: Shell, node: Node, tmp_path: Path) -> None:
    """`/shell` was once the workload host itself, with its file system, processes and capabilities: any pod could take the node."""
    secret = tmp_path / "key.pem"
    secret.write_text("secret")
    output, status = await shell(f"cat {secret}")
    assert (b"secret" in output, status) == (False, 1)
    output, _ = await shell(f"test -e {node.socket_path} && echo reached; ls /proc | grep -c '^[0-9]*$'")
    assert output.splitlines() in (
        [b"4"],
        [b"5"],
    )  # init, shell, ls, grep; no process of the node, and no socket of its helper
    output, _ = await shell("grep CapEff /proc/self/status")
    assert int(output.split()[1], 16) == capability_mask((), (), privileged=False)


async def test_shell_runs_uploads(shell: Shell, run: ContainerRun) -> None:
    """What `/upload` stored runs under the path that it answered."""
    uploads = run.directory / UPLOADS
    uploads.mkdir(parents=True)
    (uploads / "upload1").write_text("#!/bin/sh\necho ran\n")
    (uploads / "upload1").chmod(0o700)
    assert await shell(str(uploads / "upload1")) == (b"ran\n", 0)


async def test_endless_output_is_cut(shell: Shell) -> None:
    """`yes` ends with what fits: the host's memory is every container's."""
    output, status = await shell("yes")
    assert (len(output), status) == (OUTPUT_LIMIT_BYTES, KILLED)


async def test_a_pod_that_is_gone_says_so(shell: Shell, node: Node, run: ContainerRun) -> None:
    """No sandbox, no shell; an answer all the same."""
    node.spawner().delete([run.sandbox])
    output, status = await shell("true")
    assert status == CANNOT_RUN
    assert output
