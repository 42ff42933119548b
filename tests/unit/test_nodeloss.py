"""Silence: one node's is its own, everybody's is ours."""

from __future__ import annotations

from controller.nodeloss import NodeLoss

NODES = {"a", "b", "c"}


def run(loss: NodeLoss, until: float, *, start: float = 0.0, speaking: set[str], tick: float = 5.0) -> frozenset[str]:
    silent: frozenset[str] = frozenset()
    now = start
    while now < until:
        now += tick
        for node in speaking:
            loss.heard(node, now)
        silent = loss.silent(NODES, now, tick_s=tick)
    return silent


def test_a_silent_node_is_marked_after_the_timeout() -> None:
    loss = NodeLoss(40)
    run(loss, 10, speaking=NODES)
    assert run(loss, 45, start=10, speaking={"a", "b"}) == frozenset()
    assert run(loss, 60, start=45, speaking={"a", "b"}) == {"c"}
    assert loss.heard("c", 61)
    assert loss.silent(NODES, 62, tick_s=5) == frozenset()


def test_all_at_once_marks_nobody() -> None:
    """The controller was cut off, not the nodes."""
    loss = NodeLoss(40)
    run(loss, 10, speaking=NODES)
    assert run(loss, 500, start=10, speaking=set()) == frozenset()


def test_one_after_the_other_marks_each() -> None:
    """The last of them did not fall silent together with the rest."""
    loss = NodeLoss(40)
    run(loss, 10, speaking=NODES)
    run(loss, 30, start=10, speaking={"a", "b"})
    run(loss, 60, start=30, speaking={"a"})
    assert run(loss, 200, start=60, speaking=set()) == NODES


def test_a_pause_of_the_controller_marks_nobody() -> None:
    """Whoever slept cannot say that others were silent."""
    loss = NodeLoss(40)
    run(loss, 10, speaking=NODES)
    loss.heard("a", 99)
    assert loss.silent(NODES, 100, tick_s=5) == frozenset()
    assert run(loss, 130, start=100, speaking={"a"}) == frozenset()
    assert run(loss, 400, start=150, speaking={"a"}) == {"b", "c"}


def test_never_heard_since_start_gets_the_whole_timeout() -> None:
    loss = NodeLoss(40)
    assert loss.silent({"a", "b"}, 1000, tick_s=5) == frozenset()


def test_tolerated_before_lost() -> None:
    """NotReady is early, replacement late."""
    loss = NodeLoss(40, toleration_s=300)
    run(loss, 10, speaking=NODES)
    assert run(loss, 100, start=10, speaking={"a", "b"}) == {"c"}
    assert loss.lost(100) == frozenset()
    assert loss.lost(351) == {"c"}
