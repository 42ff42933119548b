"""What is kept of a pod's runs, and what a new agent finds of them.

In: runs as they begin. Out: `Tracked` values for the containers of a pod, as of now. In STATE/pods stand a directory per run,
UID.CONTAINER.ATTEMPT, with its log and its end, and UID.CONTAINER.attempt, the number of the present attempt (from the second on: the
first is known by its directory). They stand side by side because a directory costs more than all that is in it. Under RUN/pods/UID, in memory and gone with the node, stand the files that containers read and which sandbox all of it belongs to.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from nodeagent.kernel.base import Sandbox
from nodeagent.pods.base import Exit, RunId
from nodeagent.pods.pod import Container
from nodeagent.pods.podreport import RUNNING, Tracked
from nodeagent.pods.restarts import LOST
from nodeagent.workload.wire import EXIT_FILE, decode_exit, encode_exit
from podwire.seams import Clock, Disk

ATTEMPT = "attempt"
MEMORY_FILE = "memory.json"


class Seen(msgspec.Struct, frozen=True):
    """What was true of a running container when the agent last looked."""

    started_ms: int
    started: bool
    ready: bool


class Memory(msgspec.Struct, frozen=True):
    """A pod's sandbox, when the pod began in it, and its containers."""

    slot: str
    netns_inode: int
    started_ms: int
    containers: dict[str, Seen] = msgspec.field(default_factory=dict)

    def of(self, sandbox: Sandbox) -> bool:
        """Whether this is about that sandbox."""
        return (self.slot, self.netns_inode) == (sandbox.slot, sandbox.netns_inode)


@dataclass
class Records:
    """Paths and small files of all pods. `running` is what runners said at the agent's start; a pod that is restored takes its own."""

    disk: Disk
    state_dir: Path
    run_dir: Path
    clock: Clock
    passing: Disk | None = (
        None  # for the files below the run directory, which need no syncs; `disk` where there is none
    )
    running: set[RunId] = field(default_factory=set)
    _found: dict[str, list[str]] | None = None  # what stood in STATE/pods when it was last looked at, by pod
    _remembered: dict[str, Memory] = field(default_factory=dict)  # as their files have it
    _restored: set[str] = field(default_factory=set)  # pods whose files may be others by now

    def directory(self, run: RunId) -> Path:
        """Where a run's `log` and `exit.json` are."""
        return self._place(run.uid, run.container, run.attempt)

    def files(self, uid: str) -> Path:
        """The directory with the pod's `hosts`, `resolv.conf` and `hostname`."""
        return self.run_dir / "pods" / uid

    def _place(self, uid: str, container: str, what: int | str) -> Path:
        return self.state_dir / "pods" / f"{uid}.{container}.{what}"

    def _names(self, uid: str) -> Sequence[str]:
        """What stands there of a pod; looked up once for all pods."""
        if self._found is None:
            self._found = {}
            for name in self.disk.names(self.state_dir / "pods"):
                self._found.setdefault(name.lstrip(".").partition(".")[0], []).append(name)
        return self._found.get(uid, ())

    def known(self) -> set[str]:
        """Pods that had files here when this agent started, or have runs that nobody has taken up."""
        self._names("")
        return {*(self._found or ()), *(run.uid for run in self.running)}

    def orphans(self, uid: str) -> list[RunId]:
        """Running containers of a pod that was not restored."""
        return sorted(run for run in self.running if run.uid == uid)

    def restore(self, uid: str, spec: Container, memory: Memory | None) -> Tracked:
        """The container as it is now: never run, running, or ended, seen or unseen."""
        begins = f"{uid}.{spec.name}."
        names = [name.removeprefix(begins) for name in self._names(uid) if name.startswith(begins)]
        started = {int(name) for name in names if name.isdecimal()}
        mine = {run for run in self.running if (run.uid, run.container) == (uid, spec.name)}
        self.running -= mine
        written = (self.disk.read(self._place(uid, spec.name, ATTEMPT)) or b"") if ATTEMPT in names else b""
        begun = {int(written)} if written.isdigit() else set()
        attempts = started | begun | {run.attempt for run in mine}
        if not attempts:
            return Tracked(spec)
        one = Tracked(spec, max(attempts))
        run = one.run_id(uid)
        one.last = self._end(RunId(uid, spec.name, one.attempt - 1)) if one.attempt else None
        seen = memory.containers.get(spec.name) if memory else None
        end = self._end(run)
        if end is not None:
            one.started_ms = end.started_unix_ms or (seen.started_ms if seen else 0)
            one.ends(end)
        elif run in mine:
            one.phase, one.reason = RUNNING, ""
            one.started_ms = seen.started_ms if seen else int(self.clock.wall() * 1000)
            one.started = seen.started if seen else spec.startup is None
            one.ready = seen.ready if seen else spec.readiness is None
        elif one.attempt in started:
            now = int(self.clock.wall() * 1000)
            one.ends(Exit(137, 9, seen.started_ms if seen else 0, now, LOST, "it ended with its node, unseen"))
        return one

    def _end(self, run: RunId) -> Exit | None:
        content = self.disk.read(self.directory(run) / EXIT_FILE)
        return None if content is None else decode_exit(content)

    def amend(self, run: RunId, end: Exit) -> None:
        """Writes down of a run's end what was not known to whoever wrote it first."""
        self.disk.replace(self.directory(run) / EXIT_FILE, encode_exit(end))

    def begin_attempt(self, run: RunId) -> None:
        """Makes the number of a further attempt durable, and drops the run before the last."""
        self.disk.replace(self._place(run.uid, run.container, ATTEMPT), str(run.attempt).encode())
        if run.attempt >= 2:
            shutil.rmtree(self.directory(RunId(run.uid, run.container, run.attempt - 2)), ignore_errors=True)

    def recall(self, uid: str) -> Memory | None:
        """What was remembered of the pod since the node started; `restore` of its containers comes next."""
        if uid in self._restored:
            self._found = None  # it ran since we looked
        self._restored.add(uid)
        content = self.disk.read(self.files(uid) / MEMORY_FILE)
        try:
            return None if content is None else msgspec.json.decode(content, type=Memory)
        except msgspec.DecodeError:
            return None

    def remember(self, uid: str, sandbox: Sandbox, started_ms: int, containers: Iterable[Tracked]) -> None:
        """Keeps what a new agent cannot find out by looking."""
        seen = {one.spec.name: Seen(one.started_ms, one.started, one.ready) for one in containers}
        memory = Memory(sandbox.slot, sandbox.netns_inode, started_ms, seen)
        if memory != self._remembered.get(uid):
            self._write(self.files(uid) / MEMORY_FILE, msgspec.json.encode(memory))
            self._remembered[uid] = memory

    def write_files(self, uid: str, files: Mapping[str, str]) -> None:
        """What the pod's containers read as /etc/hosts, /etc/resolv.conf and /etc/hostname."""
        for name, content in files.items():
            self._write(self.files(uid) / name, content.encode())

    def _write(self, path: Path, content: bytes) -> None:
        disk = self.passing or self.disk
        if disk.read(path) != content:
            disk.replace(path, content)

    def forget(self, uid: str, containers: Iterable[Tracked]) -> None:
        """Removes everything of a pod, of which these containers ran since this agent started."""
        found = self._found.pop(uid, ()) if self._found else ()
        self._restored.discard(uid)
        self._remembered.pop(uid, None)
        places = [self.files(uid), *(self.state_dir / "pods" / name for name in found)]
        for one in containers:
            kept = (one.attempt, one.attempt - 1, ATTEMPT) if one.attempt else (0,)
            places += [self._place(uid, one.spec.name, what) for what in kept]
        asyncio.get_running_loop().run_in_executor(None, _remove_all, places)


def _remove_all(places: Iterable[Path]) -> None:
    """On a thread, since a disk may take its time, and nobody waits for it: what a crash leaves over, the next agent finds."""
    for place in places:
        with suppress(OSError):
            if place.is_dir():
                _remove(place)
            else:
                place.unlink()


def _remove(directory: str | os.PathLike[str]) -> None:
    """Links are not followed. Nothing of the pod runs any more, so none can appear while we look: shutil.rmtree, which reckons with
    that, takes three times as long.
    """
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _remove(entry.path)
            else:
                os.unlink(entry.path)  # noqa: PTH108 - pathlib doubles what this costs
    os.rmdir(directory)  # noqa: PTH106 - likewise
