"""Keeping processes running: which to start, which ended, when to try again.

In: members (a name and how to start one), ends as the kernel reports them, and the time. Out: processes that run. Used twice: by the
supervisor for the controller and the nodes, and by each node's keeper for helper, agent and workload host. Back-off starts at 0.1 s,
so that a crash costs a moment and a crash loop costs little; a minute of life resets it.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from podwire.drivers.local import syscalls
from podwire.seams import Clock

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 5.0
STEADY_S = 60.0


@dataclass(slots=True)
class Member:
    """One process that should run."""

    name: str
    start: Callable[[], int]  # returns the PID
    pid: int = 0
    started: float = 0.0
    delay_s: float = FIRST_DELAY_S
    due: float = 0.0  # when to start, while it does not run
    ends: int = 0  # how often it has ended


class Family:
    """The members of one supervisor. Not thread-safe: one loop owns it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._members: dict[str, Member] = {}

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def add(self, name: str, start: Callable[[], int]) -> None:
        """Starts a member now and keeps it running."""
        member = Member(name, start)
        self._members[name] = member
        self._start(member)

    def discard(self, name: str) -> int:
        """Stops keeping a member; returns its PID (0 where it does not run). Ending it is the caller's."""
        member = self._members.pop(name, None)
        return member.pid if member else 0

    def hurry(self, name: str) -> None:
        """The next start of a member comes at once: its end is wanted."""
        self._members[name].delay_s = 0.0

    def wait(self, pid: int) -> None:
        """Blocks until a child has ended, and handles its end; for a child that was just killed."""
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self.reap()

    def reap(self) -> list[int]:
        """Collects what ended, orphans included; returns the PIDs."""
        ended: list[int] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if pid == 0:
                return ended
            ended.append(pid)
            for member in self._members.values():
                if member.pid == pid:
                    self._schedule(member)
                    code = os.waitstatus_to_exitcode(status)
                    _say(f"{member.name} ended with {code}")

    def start_due(self) -> float | None:
        """Starts what is due; returns the seconds until the next one is, or None where nothing waits."""
        now = self._clock.monotonic()
        for member in self._members.values():
            if member.pid == 0 and member.due <= now:
                self._start(member)
        waiting = [member.due - now for member in self._members.values() if member.pid == 0]
        return max(0.0, min(waiting)) if waiting else None

    def _start(self, member: Member) -> None:
        member.started = self._clock.monotonic()
        try:
            member.pid = member.start()
        except OSError as error:  # no space, no more processes: it is tried again
            self._schedule(member)
            _say(f"{member.name} did not start: {error}")

    def _schedule(self, member: Member) -> None:
        now = self._clock.monotonic()
        if now - member.started >= STEADY_S:
            member.delay_s = FIRST_DELAY_S
        member.pid = 0
        member.ends += 1
        member.due = now + member.delay_s
        member.delay_s = min(max(member.delay_s * 2, FIRST_DELAY_S), LONGEST_DELAY_S)


def _say(text: str) -> None:
    with suppress(OSError):  # a log on a full disk is no reason to end a cluster
        sys.stderr.write(f"{text}\n")


def fork(name: str, log: str, work: Callable[[], int | None], *, keep: tuple[int, ...] = ()) -> int:
    """Runs `work` in a child that dies with its parent, with default signals, no descriptor of ours but `keep`, and output to a log
    file. Returns the PID in the parent; the child ends with work's exit code.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        syscalls.die_with_parent()
        syscalls.set_process_name(name)
        _reset_signals()
        _redirect(log, keep)
        code = work() or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - the last frame of a process: say it and end
        import traceback  # noqa: PLC0415 - only when something went wrong

        traceback.print_exc()
    finally:
        os._exit(code)


def run_module(module: str, arguments: Sequence[str]) -> int | None:
    """What `python -m MODULE ARGUMENTS` does, in a process that has imported it before."""
    sys.argv = [module, *arguments]
    main: Callable[[], int | None] = importlib.import_module(f"{module}.__main__").main
    return main()


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _redirect(log: str, keep: tuple[int, ...]) -> None:
    """Nothing is open in a child but its log: the module runs before gRPC or any thread has opened anything."""
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    first = 3
    for kept in (*sorted(keep), os.sysconf("SC_OPEN_MAX")):
        os.closerange(first, kept)
        first = kept + 1
