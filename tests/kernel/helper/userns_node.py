"""Run by test_helper_unprivileged inside `unshare -Urnmpf`: a node without any privilege outside its user namespace."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from tests.kernel.helper.helper_node import HELPER, Node


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")


async def main(directory: Path) -> None:
    node = Node(directory, HELPER)
    node.serve()
    sandbox = node.sandbox()
    runner = node.runner()
    script = "hostname; id -u; grep -c . /proc/self/mounts > /dev/null && ls /sys/class/net; echo x > /tmp/x; cat /etc/resolv.conf"
    run = node.container(sandbox, "sh", "-c", f"{script}; test -c /dev/null -a -c /dev/ptmx; exit 8")
    await runner.start(run)
    end = await runner.wait(run.id, run.directory)
    say("exit", end.code, (run.directory / "log").read_text())
    session = await node.execs().start(
        node.container(sandbox, "netexec", more={"program": "netexec"}), ["tty"], tty=True
    )
    async with session:
        async for chunk in session.output():
            say(chunk.data.decode().strip())
        say("exec", await session.wait())
    say("delete", node.spawner().delete([sandbox]), node.spawner().gone(sandbox))
    node.end()


if __name__ == "__main__":
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", sys.argv[1]], check=True)
    asyncio.run(main(Path(sys.argv[1])))
