"""Network namespaces: run something inside one, or open a socket there.

In: pinned namespaces (a path of a bind mount, or /proc/PID/ns/net). Out: results, or sockets that stay bound to the namespace they
were opened in. A thread that has switched is never given back to other work: every function here uses a thread of its own and lets
it end inside the foreign namespace, so that nothing can run in the wrong one by accident.
"""

from __future__ import annotations

import ctypes
import errno
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from nodeagent.kernel.netlink import NetlinkSocket
from podwire.errors import KernelError

CLONE_NEWNET = 0x40000000
_T = TypeVar("_T")
_libc = ctypes.CDLL(None, use_errno=True)


def setns(fd: int, kind: int = CLONE_NEWNET) -> None:
    """Moves the calling thread into a namespace (os.setns exists from Python 3.12 on)."""
    if _libc.setns(fd, kind):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def unshare(kind: int = CLONE_NEWNET) -> None:
    """Gives the calling thread a new namespace (os.unshare exists from Python 3.12 on)."""
    if _libc.unshare(kind):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def open_current() -> int:
    """A descriptor of the calling thread's network namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def run(enter: Callable[[], None], work: Callable[[], _T]) -> _T:
    """Runs `work` in a thread of its own, after `enter` has switched it; exceptions come back to the caller."""
    results: list[_T] = []
    failures: list[BaseException] = []

    def body() -> None:
        try:
            enter()
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - handed to the caller, whatever it is
            failures.append(error)

    thread = threading.Thread(target=body, name="netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def run_in(fd: int, work: Callable[[], _T]) -> _T:
    """Runs `work` inside the namespace that `fd` refers to."""
    return run(lambda: setns(fd), work)


def run_in_new(work: Callable[[], _T]) -> _T:
    """Runs `work` inside a new namespace that is gone when nothing made there is held any more."""
    return run(unshare, work)


def open_pin(pin: str, inode: int) -> int:
    """A descriptor of a pinned namespace, after checking that it is the one recorded: paths and PIDs are reused.

    Raises:
        KernelError: there is none, or it is another one (errno ESTALE).
    """
    try:
        fd = os.open(pin, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, "open network namespace", pin) from error
    found = os.fstat(fd).st_ino
    if found != inode:
        os.close(fd)
        raise KernelError(errno.ESTALE, "open network namespace", pin, f"it is inode {found}, not {inode} as recorded")
    return fd


def sockets(pins: Sequence[tuple[str, int]]) -> Iterator[NetlinkSocket | KernelError]:
    """An rtnetlink socket inside each (pin, inode), in order. A thread of its own runs ahead of the consumer, because entering a
    namespace releases the interpreter and the consumer spends its time waiting for the kernel anyway.
    """
    ready: queue.SimpleQueue[NetlinkSocket | KernelError] = queue.SimpleQueue()

    def produce() -> None:
        for pin, inode in pins:
            try:
                ready.put(_socket_inside(pin, inode))
            except KernelError as error:
                ready.put(error)
            except OSError as error:
                ready.put(KernelError(error.errno or errno.EIO, "open a netlink socket in", pin))

    thread = threading.Thread(target=produce, name="netns")
    thread.start()
    taken = 0
    try:
        for _ in pins:
            taken += 1
            yield ready.get()
    finally:
        thread.join()
        for _ in range(len(pins) - taken):  # the consumer gave up
            left = ready.get()
            if isinstance(left, NetlinkSocket):
                left.close()


def _socket_inside(pin: str, inode: int) -> NetlinkSocket:
    fd = open_pin(pin, inode)
    try:
        setns(fd)
    finally:
        os.close(fd)
    return NetlinkSocket(light=True)
