"""Address management: no number twice, none before its rest, the oldest first."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.ipam import ADDRESSES, AddressPool, Allocation, Held, Pool, Pools, RangePool, claim, release
from controller.store.base import Absent, Put, Remove, Unchanged
from podwire.errors import Exhausted


def test_addresses_leave_out_what_is_the_nodes() -> None:
    """Base is the tunnel end, base+1 the gateway, the last one broadcast."""
    pool = AddressPool(ipaddress.ip_network("10.244.1.0/29"))
    given_out = [pool.value(pool.take(0)) for _ in range(5)]
    assert given_out == [f"10.244.1.{last}" for last in range(2, 7)]
    with pytest.raises(Exhausted, match="all 5 are taken"):
        pool.take(0)


def test_v6_has_no_broadcast() -> None:
    """The last address of an IPv6 range is an address."""
    pool = AddressPool(ipaddress.ip_network("fd00::/126"))
    assert [pool.value(pool.take(0)) for _ in range(2)] == ["fd00::2", "fd00::3"]


def test_ranges() -> None:
    """A cluster CIDR is cut into node ranges in order."""
    pool = RangePool(ipaddress.ip_network("10.244.0.0/22"), 24)
    assert [pool.value(pool.take(0)) for _ in range(4)] == [f"10.244.{third}.0/24" for third in range(4)]
    assert not pool.has_room(0)
    assert pool.number(int(ipaddress.ip_address("10.244.3.0"))) == 3


def test_released_numbers_rest_first_in_first_out() -> None:
    """Fresh numbers go first, then the one that has rested longest, and none before its time."""
    pool = Pool(1, 3, cooldown_s=60)
    assert [pool.take(0), pool.take(0)] == [1, 2]
    pool.rest(2, now=10)
    pool.rest(1, now=20)
    assert pool.take(30) == 3
    with pytest.raises(Exhausted, match="2 of them resting"):
        pool.take(69)
    assert pool.next_rested(30) == 40
    assert pool.take(70) == 2
    assert not pool.has_room(70)
    assert pool.take(80) == 1


def test_given_back_unused_needs_no_rest() -> None:
    """What a failed transaction took is free at once."""
    pool = Pool(1, 1)
    pool.give_back(pool.take(0))
    assert pool.take(0) == 1


def test_pools_follow_the_store() -> None:
    """Allocations that others made, or that were there at start, are seen by whoever asks for the pool later."""
    pools = Pools((ipaddress.ip_network("10.244.0.0/16"), ipaddress.ip_network("fd00::/48")), (24, 64))
    pools.held("10.244.0.0/24")
    pools.held("10.244.0.2")
    pools.held("fd00::2")
    v4, v6 = pools.node(("10.244.0.0/24", "fd00::/64"))
    assert v4.value(v4.take(0)) == "10.244.0.3"
    assert v6.value(v6.take(0)) == "fd00::3"
    assert pools.ranges[0].value(pools.ranges[0].take(0)) == "10.244.1.0/24"
    pools.released("10.244.0.2", now=0)
    assert v4.next_rested(0) == 60


def test_claims_and_releases_are_conditional() -> None:
    """A claim holds only where nobody has it; a release names what it saw."""
    owner = Allocation(owner="uid", node="a")
    operations = claim(ADDRESSES, "10.0.0.2", owner)
    assert operations.given == (Absent("/allocations/pod-addresses/10.0.0.2"),)
    assert isinstance(operations.writes[0], Put)
    assert operations.writes[1] == Remove("/resting/pod-addresses/10.0.0.2")
    freed = release(ADDRESSES, "10.0.0.2", Held(owner, 7))
    assert freed.given == (Unchanged("/allocations/pod-addresses/10.0.0.2", 7),)
    assert freed.writes[0] == Remove("/allocations/pod-addresses/10.0.0.2")


@given(
    st.lists(st.tuples(st.sampled_from(("take", "rest", "give_back", "hold")), st.integers(0, 7), st.integers(0, 30)))
)
def test_never_twice_and_never_too_early(steps: list[tuple[str, int, int]]) -> None:
    """Whatever happens, a number has one holder, and rests its time between two of them."""
    pool = Pool(0, 7, cooldown_s=60)
    now = 0.0
    held: set[int] = set()
    rested_until: dict[int, float] = {}
    for action, number, passed in steps:
        now += passed
        match action:
            case "take":
                free = {each for each in range(8) if each not in held and rested_until.get(each, 0) <= now}
                assert pool.has_room(now) == bool(free)
                if not free:
                    with pytest.raises(Exhausted):
                        pool.take(now)
                    continue
                taken = pool.take(now)
                assert taken in free
                held.add(taken)
            case "rest" if number in held:
                pool.rest(number, now)
                held.discard(number)
                rested_until[number] = now + 60
            case "give_back" if number in held:
                pool.give_back(number)
                held.discard(number)
                rested_until.pop(number, None)
            case "hold":
                pool.hold(number)
                held.add(number)
