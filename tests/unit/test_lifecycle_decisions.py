"""Pure decisions: pauses, and answers in a row."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nodeagent.pods.pod import ProbeSpec, TcpCheck
from nodeagent.pods.probes import Tally, count
from nodeagent.pods.restarts import LONGEST_PAUSE_S, BackOff, advance, remaining


@given(st.lists(st.floats(0, 2000), min_size=1, max_size=40))
def test_pauses_never_pass_five_minutes_and_reset(runs_s: list[float]) -> None:
    """Whatever a container does, it waits at most five minutes, and not at all after ten quiet ones."""
    now, back_off = 0.0, None
    for ran_s in runs_s:
        now += ran_s
        pause_s = remaining(back_off, now, now)
        assert 0 <= pause_s <= LONGEST_PAUSE_S
        if back_off is not None and ran_s > 600:
            assert pause_s == 0
        ended_at, now = now, now + pause_s
        assert remaining(back_off, ended_at, now) < 1e-6
        back_off = advance(back_off, ended_at, now)


def test_time_already_spent_counts() -> None:
    """The pause runs from the end of the container, not from when it is looked at."""
    assert remaining(BackOff(10, 0), 100, 104) == 6
    assert remaining(BackOff(10, 0), 100, 120) == 0


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 4), st.integers(1, 4))
def test_verdict_changes_only_at_the_threshold(answers: list[bool], successes: int, failures: int) -> None:
    """The verdict is what the last long enough row of equal answers said."""
    spec = ProbeSpec(TcpCheck(1), success_threshold=successes, failure_threshold=failures)
    tally, expected = Tally(verdict=False), False
    for index in range(len(answers)):
        tally, reached = count(tally, ok=answers[index], spec=spec)
        row = 1
        while row <= index and answers[index - row] == answers[index]:
            row += 1
        if row >= (successes if answers[index] else failures):
            expected = answers[index]
            assert reached
        else:
            assert not reached
        assert tally.verdict is expected
