"""A read-only /proc/sys, as containers without all privileges have it, is named with its remedy."""

from __future__ import annotations

import ctypes
import errno

import pytest

from nodeagent.kernel import netns, sysctl
from podwire.errors import KernelError

pytestmark = pytest.mark.kernel

CLONE_NEWNS = 0x20000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18


def test_a_read_only_proc_sys_says_what_to_do() -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def enter() -> None:
        netns.unshare(CLONE_NEWNS | netns.CLONE_NEWNET)
        assert libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
        assert libc.mount(b"/proc/sys", b"/proc/sys", None, MS_BIND, None) == 0
        assert libc.mount(b"none", b"/proc/sys", None, MS_BIND | MS_REMOUNT | MS_RDONLY, None) == 0

    with pytest.raises(KernelError, match="mount -o remount,rw /proc/sys") as caught:
        netns.run(enter, lambda: sysctl.write("net/ipv4/ip_forward", "1"))
    assert caught.value.errno == errno.EROFS


def test_a_setting_that_does_not_exist_reads_as_none() -> None:
    assert netns.run_in_new(lambda: sysctl.read("net/ipv4/conf/no-such-link/rp_filter")) is None
    assert netns.run_in_new(lambda: sysctl.read("net/ipv4/ip_forward")) is not None
