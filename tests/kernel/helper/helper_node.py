"""A node made of nothing but the real helper, in a network namespace of its own. What the helper's tests stand on."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodeagent.kernel.base import Failure, Sandbox
from nodeagent.kernel.procs import open_pidfd
from nodeagent.kernel.spawner import Spawner
from nodeagent.pods.base import ContainerRun, RunId
from nodeagent.pods.exec import ExecRunner
from nodeagent.pods.process import ProcessRunner
from podwire.seams import SystemClock

REPO = Path(__file__).resolve().parents[3]
HELPER = REPO / "nodeagent" / "helper" / "podwire-helper"


def wait_until(condition: Callable[[], bool], what: str, within_s: float = 10.0) -> None:
    clock = SystemClock()
    deadline = clock.monotonic() + within_s
    while not condition():
        assert clock.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        clock.pause(0.01)


@dataclass
class Node:
    directory: Path
    binary: Path
    child: subprocess.Popen[bytes] | None = None
    attempts: int = 0

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self.child is not None
        return self.child

    @property
    def run_dir(self) -> Path:
        return self.directory / "run"

    @property
    def socket_path(self) -> Path:
        return self.run_dir / "helper.sock"

    def serve(self, *prefix: str) -> None:
        command = ["unshare", "--net", *prefix, str(self.binary), "serve", "--socket", str(self.socket_path)]
        self.child = subprocess.Popen(command)
        wait_until(self.socket_path.exists, "the helper's socket")

    def kill_helper(self) -> None:
        assert self.child is not None
        self.child.kill()
        self.child.wait()
        self.socket_path.unlink(missing_ok=True)

    def spawner(self) -> Spawner:
        return Spawner(self.socket_path, self.run_dir)

    def runner(self, boot_id: str = "boot-1") -> ProcessRunner:
        return ProcessRunner(self.spawner(), self.run_dir, boot_id=boot_id, clock=SystemClock())

    def execs(self) -> ExecRunner:
        return ExecRunner(self.spawner(), self.runner(), clock=SystemClock())

    def sandbox(self, slot: str = "00000000000a", hostname: str = "pod-a") -> Sandbox:
        made = self.spawner().create([(slot, hostname)])[0]
        assert not isinstance(made, Failure), made
        return made

    def container(
        self, sandbox: Sandbox, *argv: str, name: str = "main", more: dict[str, Any] | None = None
    ) -> ContainerRun:
        files = self.directory / "pods" / sandbox.slot
        files.mkdir(parents=True, exist_ok=True)
        (files / "hosts").write_text(f"127.0.0.1 localhost {sandbox.slot}.test\n")
        (files / "resolv.conf").write_text("nameserver 192.0.2.53\n")
        (files / "hostname").write_text("pod-a\n")
        self.attempts += 1
        run = RunId(sandbox.slot, name, self.attempts)
        values: dict[str, Any] = {
            "id": run,
            "program": "process",
            "argv": argv,
            "env": (("GREETING", "hello"),),
            "working_dir": "",
            "ports": (),
            "sandbox": sandbox,
            "hostname": "pod-a",
            "files": files,
            "directory": files / name / str(self.attempts),
        }
        return ContainerRun(**(values | (more or {})))

    def end(self) -> None:
        if self.child is None or self.child.poll() is not None:
            self.serve()
        spawner = self.spawner()
        for name in (self.run_dir / "containers").iterdir():
            record = self.runner().record(_id_of(name.name))
            pidfd = open_pidfd(record.waiter_id) if record else None
            if pidfd is not None:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.close(pidfd)
        spawner.delete(spawner.existing())
        assert spawner.existing() == []
        assert self.child is not None
        self.child.terminate()
        assert self.child.wait(10) == 0
        subprocess.run(["umount", str(self.run_dir / "sandboxes")], check=True)


def _id_of(name: str) -> RunId:
    uid, container, attempt = name.rsplit("_", 2)
    return RunId(uid, container, int(attempt))
