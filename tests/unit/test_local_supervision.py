"""The local driver's parts that need no namespaces: back-off, commands, addresses, descent."""

from __future__ import annotations

import ipaddress
import itertools
import os
import threading
from pathlib import Path

import pytest

from podwire.drivers.local import control, layout, processes
from podwire.drivers.local.family import FIRST_DELAY_S, LONGEST_DELAY_S, STEADY_S, Family
from podwire.drivers.local.loop import Loop
from podwire.errors import InvalidInput, NotFound, Unavailable
from podwire.seams import SystemClock


class Clock(SystemClock):
    """Time as a test sets it."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def child(code: int = 0) -> int:
    """A process that ends at once; it stays a zombie until it is collected."""
    pid = os.fork()
    if pid == 0:
        os._exit(code)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def test_a_member_that_keeps_ending_is_started_ever_later() -> None:
    clock = Clock()
    family = Family(clock)
    starts: list[float] = []

    def start() -> int:
        starts.append(clock.now)
        return child(1)

    family.add("agent", start)
    for _ in range(12):
        family.reap()
        wait = family.start_due()
        assert wait is not None
        clock.now += wait
        family.start_due()
    gaps = [round(later - earlier, 3) for earlier, later in itertools.pairwise(starts)]
    assert gaps[:4] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S, 8 * FIRST_DELAY_S]
    assert gaps[-1] == LONGEST_DELAY_S
    clock.now += STEADY_S
    family.reap()
    assert family.start_due() == pytest.approx(FIRST_DELAY_S)
    family.reap()


def test_an_end_that_is_wanted_is_followed_by_a_start_at_once() -> None:
    family = Family(Clock())
    family.add("node/a", child)
    family.hurry("node/a")
    family.reap()
    assert family.start_due() is None
    pid = family.discard("node/a")
    os.waitpid(pid, 0)
    assert family.discard("node/a") == 0


def test_commands_cross_the_socket_with_their_errors(tmp_path: Path) -> None:
    def fail(node: str) -> None:
        raise NotFound(f"there is no node {node!r}", hint="nodes: a")

    path = tmp_path / "control.sock"
    results: list[object] = []

    def client() -> None:
        results.append(control.call(path, "echo", "a"))
        for verb in ("fail", "nonsense"):
            try:
                control.call(path, verb, "b")
            except (NotFound, InvalidInput) as error:
                results.append((type(error), error.hint))
        control.call(path, "stop")

    loop = Loop(SystemClock())
    control.Server(loop, path, {"echo": lambda node: [node], "fail": fail, "stop": lambda _: loop.stop()})
    assert path.stat().st_mode & 0o777 == 0o600
    thread = threading.Thread(target=client)
    thread.start()
    loop.run(lambda: 5.0)
    thread.join()
    loop.close()
    assert results == [["a"], (NotFound, "nodes: a"), (InvalidInput, "")]


def test_no_supervisor_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        control.call(tmp_path / "nothing.sock", "nodes")
    with pytest.raises(Unavailable):
        control.result(b'{"result": ')


def test_the_underlay_keeps_clear_of_the_clusters_ranges() -> None:
    candidates = [ipaddress.ip_network(text) for text in layout.UNDERLAY_CANDIDATES]
    assert layout.choose_underlay(None, ()) == candidates[0]
    assert layout.choose_underlay(None, (ipaddress.ip_network("198.18.0.0/15"),)) == candidates[1]
    assert layout.choose_underlay(candidates[2], (candidates[0],)) == candidates[2]
    with pytest.raises(InvalidInput):
        layout.choose_underlay(None, (ipaddress.ip_network("0.0.0.0/0"),))


def test_addresses_go_by_number_and_numbers_are_reused() -> None:
    underlay = ipaddress.ip_network("10.9.0.0/29")
    assert str(layout.controller_address(underlay)) == "10.9.0.1/29"
    assert [str(layout.node_address(underlay, number).ip) for number in (1, 5)] == ["10.9.0.2", "10.9.0.6"]
    with pytest.raises(InvalidInput):
        layout.node_address(underlay, 6)
    assert layout.free_number(set()) == 1
    assert layout.free_number({1, 3}) == 2


def test_a_directory_too_long_for_sockets_is_refused() -> None:
    layout.Layout(Path("/short")).check()
    with pytest.raises(InvalidInput, match="too long"):
        layout.Layout(Path("/" + "long" * 30)).check()


def test_processes_are_found_by_descent() -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    assert pid in processes.below(os.getpid())
    assert processes.parent(pid) == os.getpid()
    assert processes.start_time(pid) is not None
    os.close(reading)
    os.close(writing)
    os.waitpid(pid, 0)
    assert processes.start_time(pid) is None
    assert processes.parent(pid) == 0
