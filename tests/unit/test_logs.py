"""Reading container logs: whole, their end, the attempt before, and as they grow."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.pods.logs import LogQuery, LogSource, parse_line, read_log, tail_start
from podwire.errors import NotFound


class ScriptedClock:
    """Each sleep runs the next step of the script, as if another process had done it meanwhile."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self._steps = list(steps)

    def monotonic(self) -> float:
        return 0.0

    def wall(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        assert self._steps, "the reader went on waiting after the container was gone"
        self._steps.pop(0)()

    @property
    def done(self) -> bool:
        return not self._steps


def line(text: str, tag: str = "F", number: int = 0) -> str:
    return f"2026-01-02T03:04:05.{number:09d}Z stdout {tag} {text}\n"


def write(directory: Path, attempt: int, *lines: str, name: str = "log") -> None:
    run = directory.with_name(f"{directory.name}.{attempt}")
    run.mkdir(exist_ok=True)
    with (run / name).open("a") as file:
        file.write("".join(lines))


async def text_of(chunks: AsyncIterator[bytes]) -> str:
    return b"".join([chunk async for chunk in chunks]).decode()


async def test_the_newest_attempt_and_the_one_before(tmp_path: Path) -> None:
    for attempt in (0, 2, 10):
        write(tmp_path, attempt, line(f"attempt {attempt}"))
    assert await text_of(read_log(LogSource(tmp_path), LogQuery(), clock=ScriptedClock())) == "attempt 10\n"
    assert (
        await text_of(read_log(LogSource(tmp_path, previous=True), LogQuery(), clock=ScriptedClock())) == "attempt 2\n"
    )


async def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    coming = LogSource(tmp_path / "web", gone=lambda: False)
    with pytest.raises(NotFound, match="no log yet"):
        await text_of(read_log(coming, LogQuery(), clock=ScriptedClock()))
    over = LogSource(tmp_path / "web")
    assert await text_of(read_log(over, LogQuery(), clock=ScriptedClock())) == ""
    write(tmp_path, 0, line("x"))
    with pytest.raises(NotFound, match="no previous attempt"):
        await text_of(read_log(LogSource(tmp_path, previous=True), LogQuery(), clock=ScriptedClock()))


async def test_the_tail_counts_lines_across_rotation_and_keeps_long_ones_whole(tmp_path: Path) -> None:
    write(tmp_path, 0, line("one"), line("two"), name="log.1")
    write(tmp_path, 0, line("lo", "P"), line("ng"), line("last"))
    assert (
        await text_of(read_log(LogSource(tmp_path), LogQuery(tail_lines=3), clock=ScriptedClock()))
        == "two\nlong\nlast\n"
    )
    assert await text_of(read_log(LogSource(tmp_path), LogQuery(tail_lines=0), clock=ScriptedClock())) == ""
    assert await text_of(read_log(LogSource(tmp_path), LogQuery(), clock=ScriptedClock())) == "one\ntwo\nlong\nlast\n"


async def test_timestamps_stand_before_whole_lines(tmp_path: Path) -> None:
    write(tmp_path, 0, line("lo", "P", 1), line("ng", "F", 2), line("x", "F", 3))
    text = await text_of(read_log(LogSource(tmp_path), LogQuery(timestamps=True), clock=ScriptedClock()))
    assert text == "2026-01-02T03:04:05.000000001Z long\n2026-01-02T03:04:05.000000003Z x\n"


async def test_following_goes_through_rotations_and_attempts_until_the_end(tmp_path: Path) -> None:
    run = tmp_path.with_name(f"{tmp_path.name}.0")
    log, older = run / "log", run / "log.1"

    def rotate() -> None:
        write(tmp_path, 0, line("last before"))
        log.replace(older)
        write(tmp_path, 0, line("first after"))

    def rotate_twice() -> None:
        rotate()
        write(tmp_path, 0, line("between"))
        log.replace(older)
        write(tmp_path, 0, line("newest"))

    clock = ScriptedClock(
        lambda: write(tmp_path, 0, line("one")),
        lambda: write(tmp_path, 0, line("two")[:-3]),
        lambda: write(tmp_path, 0, line("two")[-3:]),
        rotate,
        rotate_twice,
        lambda: write(tmp_path, 1, line("restarted")),
        lambda: write(tmp_path, 1, line("bye")),
    )
    text = await text_of(read_log(LogSource(tmp_path, gone=lambda: clock.done), LogQuery(follow=True), clock=clock))
    assert text.splitlines() == [
        "one",
        "two",
        "last before",
        "first after",
        "last before",
        "first after",
        "between",
        "newest",
        "restarted",
        "bye",
    ]


async def test_following_starts_with_the_tail(tmp_path: Path) -> None:
    write(tmp_path, 0, line("old"), line("new"))
    clock = ScriptedClock(lambda: write(tmp_path, 0, line("newer")))
    text = await text_of(
        read_log(LogSource(tmp_path, gone=lambda: clock.done), LogQuery(follow=True, tail_lines=1), clock=clock)
    )
    assert text == "new\nnewer\n"


@pytest.mark.parametrize("junk", [b"", b"half", b"a b c", b"t stdin F x", b"t stdout X x", b"\xff\xfe"])
def test_lines_that_are_none_are_left_out(junk: bytes) -> None:
    assert parse_line(junk) is None


@given(st.lists(st.lists(st.text("ab", max_size=3), min_size=1)), st.integers(0, 8), st.booleans(), st.booleans())
def test_the_tail_is_the_last_lines(long_lines: list[list[str]], count: int, unfinished: bool, half: bool) -> None:
    """A long line's pieces are one line; so is an unfinished one; half a piece is none yet."""
    written = [[line(piece, "P") for piece in pieces[:-1]] + [line(pieces[-1])] for pieces in long_lines]
    if unfinished and written:
        written[-1][-1] = written[-1][-1].replace(" F ", " P ")
    whole = ["".join(pieces) for pieces in written]
    text = ("".join(whole) + ("2026-01" if half else "")).encode()
    start, missing = tail_start(text, count)
    assert text[start:].removesuffix(b"2026-01").decode() == "".join(whole[max(len(whole) - count, 0) :])
    assert missing == max(count - len(whole), 0)
