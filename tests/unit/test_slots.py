"""Slots: a sandbox has one owner, durably, and a slot is never used twice."""

from __future__ import annotations

from nodeagent.kernel.base import ObservedPodLink, Sandbox
from nodeagent.slots import Slots
from podwire.model.addresses import IPAddress
from podwire.seams import SeededRng


def sandbox(slot: str, pid: int = 1) -> Sandbox:
    return Sandbox(slot, pid, 0, 0, "")


def seen(uid: str, slot: str) -> ObservedPodLink:
    none: frozenset[IPAddress] = frozenset()
    return ObservedPodLink(
        "v", 1, uid, 1, slot, up=True, on_bridge=True, host_mac="", mtu=0, fdb=True, neighbours=none, guarded=none
    )


def test_a_pod_keeps_its_slot_over_restarts() -> None:
    """The journal's records bring the same slot back in the same boot of the node."""
    first = Slots("boot", SeededRng(1))
    chosen, records = first.of(["p"], [])
    again = Slots("boot", SeededRng(2))
    again.load(records)
    assert again.of(["p"], []) == (chosen, [])


def test_another_boot_of_the_node_forgets_the_slots_of_the_last() -> None:
    first = Slots("boot", SeededRng(1))
    _, records = first.of(["p"], [])
    again = Slots("another", SeededRng(2))
    again.load(records)
    assert again.owners == {}


def test_a_warm_sandbox_is_adopted_before_a_new_one_is_made() -> None:
    slots = Slots("boot", SeededRng(1))
    [warm], _ = slots.warm(1)
    assert slots.of(["p"], [sandbox(warm)])[0] == {"p": warm}
    assert slots.of(["q"], [sandbox(warm)])[0]["q"] != warm


def test_a_dead_sandbox_costs_its_pod_the_slot() -> None:
    slots = Slots("boot", SeededRng(1))
    old = slots.of(["p"], [])[0]["p"]
    new = slots.of(["p"], [sandbox(old, pid=0)])[0]["p"]
    assert new != old
    assert slots.owners[old] == slots.owners[new] == "p"
    slots.forget([old])
    assert slots.slot_of("p") == new


def test_aliases_replace_a_lost_journal() -> None:
    slots = Slots("boot", SeededRng(1))
    slots.learn([seen("p", "abc")])
    assert slots.of(["p"], [sandbox("abc")]) == ({"p": "abc"}, [])


def test_forgetting_is_recorded_once() -> None:
    slots = Slots("boot", SeededRng(1))
    slot = slots.of(["p"], [])[0]["p"]
    assert len(slots.forget([slot, slot, "stranger"])) == 1
    assert slots.records() == []
