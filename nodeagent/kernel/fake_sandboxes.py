"""Sandboxes of the kernel in memory: namespaces that go when their last holder lets go.

In: the verbs of `Sandboxes`. Out: sandboxes whose insides a `FakeNode` keeps. `end_pause` is a pause process killed from outside,
`hold` and `let_go` another holder of the namespace, such as a socket in it.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence

from nodeagent.kernel.base import Failure, Sandbox
from nodeagent.kernel.fake_state import FakeEnd, FakeNode
from podwire.errors import KernelError
from podwire.seams import failpoint

RUN_DIR = "/run/podwire/sandboxes"


class FakeSandboxes:
    """`Sandboxes` for one fake kernel."""

    def __init__(self, kernel: FakeNode) -> None:
        self._kernel = kernel
        self._known: dict[str, Sandbox] = {}
        self.hostnames: dict[str, str] = {}

    def create(self, wanted: Sequence[tuple[str, str]]) -> list[Sandbox | Failure]:
        failpoint("spawner.create")
        made: list[Sandbox | Failure] = []
        for slot, hostname in wanted:
            there = next((sandbox for sandbox in self.existing() if sandbox.slot == slot), None)
            error = self._kernel.refuse("create", f"sandbox {slot}") if self._kernel.refuse else None
            if error:
                made.append(Failure(error))
                continue
            if there is not None and there.pid:
                self.hostnames[slot] = hostname
                made.append(there)
                continue
            if there is not None:
                self.delete([there])
            number = self._kernel.next_number()
            sandbox = Sandbox(slot, 1000 + number, number, 4_026_530_000 + number, f"{RUN_DIR}/{slot}.net")
            self._kernel.ends[slot] = FakeEnd(sandbox.netns_inode, {"pause", "pin"})
            self._known[slot] = sandbox
            self.hostnames[slot] = hostname
            made.append(sandbox)
        failpoint("spawner.created")
        return made

    def adopt(self, sandbox: Sandbox, hostname: str) -> None:
        failpoint("spawner.hostname")
        end = self._kernel.ends.get(sandbox.slot)
        if end is None or end.inode != sandbox.netns_inode or "pause" not in end.held_by:
            raise KernelError(errno.ESRCH, "set the hostname of", f"sandbox {sandbox.slot}")
        self.hostnames[sandbox.slot] = hostname

    def existing(self) -> list[Sandbox]:
        found: list[Sandbox] = []
        for slot, end in sorted(self._kernel.ends.items()):
            if "pin" not in end.held_by:
                continue
            broken = Sandbox(slot, 0, 0, 0, f"{RUN_DIR}/{slot}.net")
            found.append(self._known[slot] if "pause" in end.held_by else broken)
        return found

    def delete(self, sandboxes: Sequence[Sandbox]) -> list[Failure | None]:
        failpoint("spawner.delete")
        results: list[Failure | None] = []
        for sandbox in sandboxes:
            error = self._kernel.refuse("delete", f"sandbox {sandbox.slot}") if self._kernel.refuse else None
            results.append(Failure(error) if error else None)
            if not error:
                self.let_go(sandbox.slot, "pause")
                self.let_go(sandbox.slot, "pin")
        failpoint("spawner.deleted")
        return results

    def gone(self, sandbox: Sandbox) -> bool:
        end = self._kernel.ends.get(sandbox.slot)
        return end is None or sandbox.netns_inode not in {0, end.inode}

    def hold(self, slot: str, holder: str) -> None:
        """Something else keeps the namespace."""
        self._kernel.ends[slot].held_by.add(holder)

    def let_go(self, slot: str, holder: str) -> None:
        """A holder lets go; the last one takes the namespace with it, and its veth."""
        end = self._kernel.ends.get(slot)
        if end is None:
            return
        end.held_by.discard(holder)
        if end.held_by:
            return
        for name in [name for name, port in self._kernel.ports.items() if port.slot == slot]:
            self._kernel.drop_port(name)
        del self._kernel.ends[slot]

    def end_pause(self, slot: str) -> None:
        """The pause process is killed; its pin stays."""
        self.let_go(slot, "pause")
