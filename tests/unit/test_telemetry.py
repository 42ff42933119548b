"""Log lines: one per event, whatever is in the values, and no secrets."""

from __future__ import annotations

import json
import logging

from hypothesis import given
from hypothesis import strategies as st

from podwire import telemetry
from podwire.telemetry import MAX_VALUE, escape, logger
from tests.unit.security import logs

HOSTILE = [
    "\x1b[2J\x1b[31mred",
    "two\r\nlines",
    '{"event": "forged"}\n{"event": "again"}',
    "right\u202eleft\u2066\u200b",
    "\x00\x07\x7f\x9b",
    "\u2028\u2029",
    "lone \ud800",
]


def test_hostile_values_stay_on_their_line() -> None:
    """As many lines as events, each of them JSON, nothing in them that moves a cursor."""
    with logs() as out:
        for text in HOSTILE:
            logger("t").info(text, value=text, nested={text: [text]})
    lines = out.getvalue().splitlines()
    assert len(lines) == len(HOSTILE)
    for line in lines:
        assert json.loads(line)["level"] == "info"
        assert line.isprintable()
        assert json.loads(line)["value"].isprintable()


@given(st.text())
def test_escaped_text_is_printable_and_plain_text_stays(text: str) -> None:
    assert escape(text).isprintable()
    if text.isprintable():
        assert escape(text) == text


def test_secrets_are_hidden_by_name() -> None:
    with logs() as out:
        logger("t").warning("x", token="canary", nested={"key_pem": "canary", "plain": 1}, stdin=b"canary")
    assert "canary" not in out.getvalue()
    assert json.loads(out.getvalue())["nested"]["plain"] == 1


def test_long_values_are_cut() -> None:
    with logs() as out:
        logger("t").warning("x", value="y" * 100_000, many=list(range(100_000)))
    line = json.loads(out.getvalue())
    assert len(line["value"]) == MAX_VALUE + 1
    assert len(line["many"]) == 100


def test_lines_carry_the_request_and_the_component() -> None:
    with logs() as out:
        token = telemetry.request_id.set("abc")
        logger("t").info("x")
        telemetry.request_id.reset(token)
    line = json.loads(out.getvalue())
    assert (line["request_id"], line["component"], line["module"]) == ("abc", "test", "t")


def test_the_standard_librarys_logs_look_the_same() -> None:
    """Libraries log there."""
    with logs() as out:
        logging.getLogger("lib").warning("two\nlines %s", "\x1b[0m")
    assert json.loads(out.getvalue())["event"] == "two\\nlines \\x1b[0m"


def test_a_traceback_is_kept_in_its_line() -> None:
    with logs() as out:
        try:
            raise ValueError("why\x1b")
        except ValueError:
            logger("t").exception("failed")
    (line,) = out.getvalue().splitlines()
    assert "ValueError: why\\x1b" in json.loads(line)["exception"]


def test_levels_below_are_dropped() -> None:
    with logs("warning") as out:
        logger("t").info("quiet")
    assert out.getvalue() == ""
