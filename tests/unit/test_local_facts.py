"""What `doctor` advises where a kernel lacks something: a command that works there, or the kernel to boot."""

from __future__ import annotations

import pytest

from nodeagent.kernel import probe
from podwire.cli import doctor
from podwire.drivers.base import Fact
from podwire.drivers.local import facts

MODULES = """
kernel/net/sctp/sctp.ko.xz: kernel/lib/libcrc32c.ko.xz
kernel/net/sched/sch_netem.ko:
"""


@pytest.mark.parametrize(
    ("name", "modules", "advice"),
    [
        ("sctp", MODULES, "load the module: sudo modprobe sctp"),
        ("netem", MODULES, "load the module: sudo modprobe sch_netem; needed to impair links"),
        ("wireguard", MODULES, "this kernel has no module wireguard: boot one that is built with CONFIG_WIREGUARD"),
        ("sctp", "", "this kernel has no module sctp: boot one that is built with CONFIG_IP_SCTP"),
        ("ipv6", MODULES, "boot without ipv6.disable=1; needed for dual stack"),
    ],
)
def test_the_fix_is_one_that_this_kernel_can_follow(name: str, modules: str, advice: str) -> None:
    assert facts.fix(name, modules) == advice


def test_there_is_a_fix_for_everything_that_is_probed() -> None:
    assert [name for name in probe._PROBES if not facts.fix(name, "")] == []


@pytest.mark.parametrize(
    ("fact", "verdict"),
    [
        (Fact("a", "", ok=True), "yes"),
        (Fact("a", "", ok=True, fix="do this"), "optional"),
        (Fact("a", "", ok=False, fix="do this"), "no"),
    ],
)
def test_what_can_be_done_without_is_not_called_missing(fact: Fact, verdict: str) -> None:
    assert doctor._verdict(fact) == verdict
