"""What all tiers share: root for the kernel tier, and an event loop that nobody leaks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def current_event_loop() -> Iterator[None]:
    """A loop that is current while no test runs one. Otherwise the plugin asks for the current loop between tests, which makes one
    that nobody closes, and the warning about it (an error here) hits a test that has nothing to do with it.
    """
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The kernel tier makes namespaces, which takes root."""
    if os.geteuid() == 0:
        return
    skip = pytest.mark.skip(reason="needs root: it makes network namespaces and sends packets through them")
    for item in items:
        if item.get_closest_marker("kernel"):
            item.add_marker(skip)
