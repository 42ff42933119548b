"""Address management: cluster CIDR → node pod CIDR → pod address, per family.

In: what is taken and what was given back, and `now` (monotonic). Out: the next free address or range, and the store operations that
claim or release it. Pure: nothing here reads a clock or a store.

An allocation is a store key that only one transaction can create, written together with the object that owns it. A release names the
revision of the allocation that it saw, so that a newer owner is never robbed, and leaves a mark: an address that was used once rests
before it is given again, so that packets of old flows find nobody. Never-used addresses go first, then the one that has rested longest.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from controller.objects.keys import allocation_key
from controller.store.base import Absent, Precondition, Put, Remove, Unchanged, Write
from podwire.errors import Exhausted
from podwire.model.addresses import IPAddress, IPNetwork

ADDRESSES = "pod-addresses"
CIDRS = "pod-cidrs"
RESTING = "/resting/"

DEFAULT_COOLDOWN_S = 60.0


class Allocation(msgspec.Struct, frozen=True, omit_defaults=True):
    """The value under an allocation's key: who owns it."""

    owner: str
    """UID of the Pod or Node."""
    generation: int = 1
    """Of the owner when it was given."""
    node: str = ""
    namespace: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """An allocation as stored, with the revision that a release must name."""

    allocation: Allocation
    revision: int


@dataclass(frozen=True, slots=True)
class Operations:
    """What to add to a transaction."""

    given: tuple[Precondition, ...] = ()
    writes: tuple[Write, ...] = ()

    def __add__(self, other: Operations) -> Operations:
        return Operations(self.given + other.given, self.writes + other.writes)


def resting_key(pool: str, value: str) -> str:
    """Where the mark of a release stands until the value is given again."""
    return f"{RESTING}{pool}/{value}"


def claim(pool: str, value: str, allocation: Allocation) -> Operations:
    """Takes an address or range: fails as a whole when it is taken."""
    key = allocation_key(pool, value)
    return Operations((Absent(key),), (Put(key, msgspec.json.encode(allocation)), Remove(resting_key(pool, value))))


def release(pool: str, value: str, held: Held) -> Operations:
    """Gives back what `held` describes, and nothing newer."""
    key = allocation_key(pool, value)
    return Operations(
        (Unchanged(key, held.revision),),
        (Remove(key), Put(resting_key(pool, value), msgspec.json.encode(held.allocation))),
    )


class Pool:
    """Numbers from `first` to `last`, each with at most one holder; see the module's docstring for the order."""

    def __init__(self, first: int, last: int, cooldown_s: float = DEFAULT_COOLDOWN_S) -> None:
        self._first = first
        self._last = last
        self._cooldown_s = cooldown_s
        self._next = first  # all numbers below are taken, resting or rested
        self._taken: set[int] = set()
        self._resting: dict[int, float] = {}  # number → when it may be given again; oldest first

    def take(self, now: float) -> int:
        """The next free number, now taken.

        Raises:
            Exhausted: none is free; some may be resting.
        """
        while self._next <= self._last:
            number = self._next
            self._next += 1
            if number not in self._taken and number not in self._resting:
                self._taken.add(number)
                return number
        for number, until in self._resting.items():
            if until > now:
                break
            del self._resting[number]
            self._taken.add(number)
            return number
        raise Exhausted(f"all {self._last - self._first + 1} are taken ({len(self._resting)} of them resting)")

    def has_room(self, now: float) -> bool:
        """Whether `take` would succeed."""
        while self._next <= self._last and (self._next in self._taken or self._next in self._resting):
            self._next += 1
        return self._next <= self._last or any(until <= now for until in self._resting.values())

    def hold(self, number: int) -> None:
        """Notes that a number is taken, whoever took it; repeating it changes nothing."""
        self._taken.add(number)
        self._resting.pop(number, None)

    def give_back(self, number: int) -> None:
        """Undoes a `take` that never reached the store: the number was not used and needs no rest."""
        if number in self._taken:
            self._taken.discard(number)
            self._resting[number] = float("-inf")
            self._resting = {number: self._resting.pop(number), **self._resting}

    def rest(self, number: int, now: float) -> None:
        """Notes that a number was released; it may be given again after the cooldown."""
        self._taken.discard(number)
        self._resting.pop(number, None)
        self._resting[number] = now + self._cooldown_s

    def next_rested(self, now: float) -> float | None:
        """Seconds until a resting number may be given; None when none rests."""
        return max(0.0, next(iter(self._resting.values())) - now) if self._resting else None


class AddressPool(Pool):
    """Pod addresses of one node's pod CIDR: without base (tunnel end), base+1 (gateway) and IPv4's broadcast."""

    def __init__(self, cidr: IPNetwork, cooldown_s: float = DEFAULT_COOLDOWN_S) -> None:
        self.cidr = cidr
        self._base = int(cidr.network_address)
        super().__init__(2, cidr.num_addresses - (2 if cidr.version == 4 else 1), cooldown_s)

    def value(self, number: int) -> str:
        """The address of a number."""
        return str(self.cidr.network_address + number)

    def number(self, address: int) -> int:
        """The number of an address in the CIDR."""
        return address - self._base


class RangePool(Pool):
    """Node pod CIDRs of one length within a cluster CIDR."""

    def __init__(self, cidr: IPNetwork, mask: int, cooldown_s: float = DEFAULT_COOLDOWN_S) -> None:
        self.cidr = cidr
        self.mask = mask
        self._shift = cidr.max_prefixlen - mask
        self._base = int(cidr.network_address)
        self._top = int(cidr.broadcast_address)
        super().__init__(0, 2 ** (mask - cidr.prefixlen) - 1, cooldown_s)

    def value(self, number: int) -> str:
        """The range of a number."""
        return f"{self.cidr.network_address + (number << self._shift)}/{self.mask}"

    def number(self, address: int) -> int:
        """The number of the range that an address is in."""
        return (address - self._base) >> self._shift

    def holds(self, address: IPAddress) -> bool:
        """Whether an address is in one of the ranges."""
        return address.version == self.cidr.version and self._base <= int(address) <= self._top


class Pools:
    """All pools of a cluster, kept in step with the store's allocation keys."""

    def __init__(
        self, cluster_cidrs: tuple[IPNetwork, ...], masks: tuple[int, ...], cooldown_s: float = DEFAULT_COOLDOWN_S
    ) -> None:
        self._cooldown_s = cooldown_s
        self.ranges = tuple(RangePool(cidr, mask, cooldown_s) for cidr, mask in zip(cluster_cidrs, masks, strict=True))
        self._of_range: dict[str, AddressPool] = {}

    def node(self, pod_cidrs: tuple[str, ...]) -> tuple[AddressPool, ...]:
        """The address pools of a node, one per family."""
        return tuple(self._pool(cidr) for cidr in pod_cidrs)

    def _pool(self, cidr: str) -> AddressPool:
        pool = self._of_range.get(cidr)
        if pool is None:
            pool = self._of_range[cidr] = AddressPool(ipaddress.ip_network(cidr), self._cooldown_s)
        return pool

    def observe(self, held: Mapping[str, Held], resting: Iterator[str], now: float) -> None:
        """Takes note of all allocations and, oldest first, of all marks of releases: at start, or after a relist."""
        for value in resting:
            self.released(value, now)
        for value in held:
            self.held(value)

    def held(self, value: str) -> None:
        """An address or range is allocated."""
        for pool, number in self._pools_of(value):
            pool.hold(number)

    def released(self, value: str, now: float) -> None:
        """An address or range was given back."""
        for pool, number in self._pools_of(value):
            pool.rest(number, now)

    def _pools_of(self, value: str) -> Iterator[tuple[Pool, int]]:
        """The pools that an address or a range is of, with its number there. A range that is longer or shorter than ours counts by its base."""
        base, slash, _ = value.partition("/")
        address = ipaddress.ip_address(base)
        for ranges in self.ranges:
            if not ranges.holds(address):
                continue
            place = ranges.number(int(address))
            if slash:
                yield ranges, place
            else:
                pool = self._pool(ranges.value(place))
                yield pool, pool.number(int(address))
