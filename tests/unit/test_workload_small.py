"""Small pure parts of the workload host: command lines, names, logs, uploads."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.pods.base import ContainerRun, Exit, Port, RunId
from nodeagent.workload import wire
from nodeagent.workload.containerlog import ContainerLog
from nodeagent.workload.flags import Duration, Kind, UsageError, duration, parse
from nodeagent.workload.names import (
    AAAA,
    A,
    ResolverConfig,
    candidates,
    decode_answer,
    encode_question,
    parse_hosts,
    parse_resolv_conf,
)
from nodeagent.workload.sockets import NetError, host_port
from tests.unit.lifecycle_world import SANDBOX


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("5s", 5), ("1m30s", 90), ("1.5h", 5400), ("250ms", 0.25), ("-1s", -1), (".5s", 0.5)],
)
def test_durations(text: str, seconds: float) -> None:
    """Go's way of writing spans."""
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "5 s", "5d", "1s1", "one"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        duration(text)


def test_flags_in_all_their_forms() -> None:
    """With `=`, with a space, bare booleans, klog's own, words between."""
    known: dict[str, Kind] = {"port": 1, "name": "", "on": False, "off": True, "wait": Duration(2)}
    flags = parse(["--port=5", "-name", "x", "--on", "--off=false", "-v=4", "--v", "2", "word"], known, words=1)
    assert (flags.number("port"), flags.text("name"), flags.given("on"), flags.given("off")) == (5, "x", True, False)
    assert (flags.seconds("wait"), flags.words) == (2, ("word",))
    for bad in (["--none"], ["--port"], ["--port=x"], ["--on=maybe"], ["extra"], ["--wait=5"]):
        with pytest.raises(UsageError):
            parse(bad, known)


def test_resolv_conf_and_hosts() -> None:
    """As libc reads them: at most three servers, the last search counts, limits hold, comments go."""
    config = parse_resolv_conf(
        "nameserver 10.96.0.10 # dns\nnameserver 1.1.1.1\nnameserver 2\nnameserver 3\ndomain a\nsearch b.test c.\n"
        "options ndots:99 timeout:0 attempts:3 use-vc unknown\n;nameserver 9\n"
    )
    assert config == ResolverConfig(("10.96.0.10", "1.1.1.1", "2"), ("b.test", "c"), 15, 1, 3, tcp=True)
    assert parse_hosts("127.0.0.1 Localhost l # x\n::1 localhost\n") == {
        "localhost": ["127.0.0.1", "::1"],
        "l": ["127.0.0.1"],
    }


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("svc", ["svc.ns.test", "svc.test", "svc"]),
        ("a.b.c", ["a.b.c", "a.b.c.ns.test", "a.b.c.test"]),
        ("svc.", ["svc"]),
    ],
)
def test_search_list(name: str, asked: list[str]) -> None:
    """Fewer dots than ndots: the list first; a trailing dot: as it is."""
    assert candidates(name, ResolverConfig(searches=("ns.test", "test"), ndots=2)) == asked


@given(st.binary(max_size=200), st.sampled_from([A, AAAA]))
def test_no_answer_breaks_the_resolver(data: bytes, kind: int) -> None:
    """Broken messages are none."""
    answer = decode_answer(1, data, kind)
    assert answer is None or all(answer.addresses)


def test_names_that_cannot_be_asked_for() -> None:
    for name in ("a..b", "x" * 64, ".".join(["abcdefgh"] * 40)):
        with pytest.raises(NetError):
            encode_question(1, name, A)


def test_addresses_as_go_prints_them() -> None:
    assert host_port("::ffff:10.0.0.1", 80) == "10.0.0.1:80"
    assert host_port("fd00::1", 80) == "[fd00::1]:80"


def test_log_lines_and_rotation(tmp_path: Path) -> None:
    """The CRI's lines; past the limit the file becomes log.1 and a new one begins."""
    log = ContainerLog(tmp_path / "log", lambda: 1_700_000_000.25, limit_bytes=200)
    log.write("stderr", "one\ntwo\n")
    log.write("stdout", "")
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0] == "2023-11-14T22:13:20.250000000Z stderr F one"
    assert [line.split(" ", 3)[1:] for line in lines] == [
        ["stderr", "F", "one"],
        ["stderr", "F", "two"],
        ["stdout", "F", ""],
    ]
    for number in range(20):
        log.write("stdout", f"line {number}")
    log.close()
    assert (tmp_path / "log").stat().st_size <= 200
    assert (tmp_path / "log.1").exists()
    lost = ContainerLog(tmp_path / "none" / "log", lambda: 0.0)
    lost.write("stdout", "a disk that is gone loses lines, no more")


def test_messages_survive_the_wire() -> None:
    """A run and an ending arrive as they were sent."""
    run = ContainerRun(
        RunId("u", "c", 3),
        "netexec",
        ("netexec",),
        (("A", "b\n"),),
        "/",
        (Port(80, "TCP"),),
        SANDBOX,
        "h",
        Path("/f"),
        Path("/d"),
    )
    sent = wire.Request(7, wire.START, run=run)
    assert wire.request(wire.line(sent)) == sent
    end = Exit(137, 9, 1, 2, "HostDied", "why")
    assert wire.reply(wire.line(wire.Reply(ended=run.id, exit=end))).exit == end
    assert wire.decode_exit(wire.encode_exit(end)) == end
    assert wire.decode_exit(b'{"code": 1, "signal": 0, "started_unix_ms": 5, "finished_unix_ms": 6}') == Exit(
        1, 0, 5, 6
    )
    assert wire.decode_exit(b"torn") is None
