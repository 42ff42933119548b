"""Fixtures: a throw-away node. The test process enters a mount namespace for each module, because pins are mounts."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.helper.helper_node import HELPER, REPO, Node

CLONE_NEWNS = 0x00020000
MS_REC_PRIVATE = 0x4000 | 0x40000


@pytest.fixture(scope="session")
def helper_binary() -> Path:
    sys.path.insert(0, str(REPO / "protos"))
    try:
        hatch_build = importlib.import_module("hatch_build")
    finally:
        sys.path.remove(str(REPO / "protos"))
    if not hatch_build.build_helper():
        pytest.skip("no C compiler")
    return HELPER


@pytest.fixture(scope="module", autouse=True)
def _own_mounts() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNS) == 0
    assert libc.mount(None, b"/", None, MS_REC_PRIVATE, None) == 0
    yield
    assert libc.setns(before, CLONE_NEWNS) == 0
    os.close(before)


@pytest.fixture
def node(tmp_path: Path, helper_binary: Path) -> Iterator[Node]:
    one = Node(tmp_path, helper_binary)
    one.serve()
    yield one
    one.end()
