"""Bootstrap tokens: what lets a node join once, under one name, for a quarter of an hour.

In: a node's name when a token is made; a token, a name and a key when it is redeemed. Out: a `Grant`, or one refusal that says no
more to a guesser than to anyone. `controller.ca` signs after a grant. The store holds a hash; the token itself exists in the
answer that made it and in the file of the node it is for. "One use" means one key: the first key that redeems a token owns it, so a
node whose answer was lost may ask again, and whoever copied the token may not.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from controller.store.base import Absent, Put, Remove, Store, Unchanged
from podwire.errors import Conflict, Exhausted, Unauthenticated
from podwire.seams import Clock, Rng

TOKEN_PREFIX = "/tokens/"  # noqa: S105 - where they are stored, not one of them
TTL_S = 15 * 60.0
ID_BYTES, SECRET_BYTES = 8, 32  # the identifier finds the token, 256 bits of secret prove it
FAILURES_ALLOWED = 10  # per peer at once; then one more every
FAILURE_EVERY_S = 6.0
PEERS_REMEMBERED = 4_096

_SPELLING = re.compile(r"([0-9a-f]{16})\.([-_0-9A-Za-z]{43})")


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token as it is handed out, once."""

    token: str = field(repr=False)
    expires_unix_ms: int


@dataclass(frozen=True, slots=True)
class Grant:
    """What a redeemed token permits: to be this node, which starts with this zone and these labels."""

    node: str
    zone: str
    labels: Mapping[str, str]


class _Record(msgspec.Struct):
    hash: str
    node: str
    zone: str
    labels: dict[str, str]
    expires: float  # wall clock: it must mean the same after a restart
    key: str = ""  # fingerprint of the key that redeemed it; empty: none yet


class TokenBook:
    """The tokens there are. Safe under races: a redemption is a transaction with the token's revision as precondition."""

    def __init__(self, store: Store, *, clock: Clock, rng: Rng) -> None:
        self._store = store
        self._clock = clock
        self._rng = rng
        self._failures = _Failures(clock)

    async def issue(
        self, node: str, *, zone: str = "", labels: Mapping[str, str] | None = None, ttl_s: float = TTL_S
    ) -> NewToken:
        """A new token for one node. Expired ones are forgotten on the way."""
        now = self._clock.wall()
        identifier = self._rng.token(ID_BYTES).hex()
        secret = base64.urlsafe_b64encode(self._rng.token(SECRET_BYTES)).rstrip(b"=").decode()
        record = _Record(_hash(secret), node, zone, dict(labels or {}), now + ttl_s)
        entries, _ = await self._store.list(TOKEN_PREFIX)
        stale = [entry.key for entry in entries if msgspec.json.decode(entry.value, type=_Record).expires <= now]
        key = TOKEN_PREFIX + identifier
        await self._store.transact(
            [Absent(key)], [*(Remove(old) for old in stale), Put(key, msgspec.json.encode(record))]
        )
        return NewToken(f"{identifier}.{secret}", int(record.expires * 1000))

    async def redeem(self, token: str, node: str, key_fingerprint: str, peer: str) -> Grant:
        """Trades a token for the right to be `node` with this key.

        Raises:
            Unauthenticated: unknown, expired, made for another node, or redeemed by another key; it does not say which.
            Exhausted: this peer failed too often of late.
        """
        self._failures.check(peer)
        for _ in range(2):  # the second time after a race: whoever lost it sees the winner's key
            try:
                return await self._redeem_once(token, node, key_fingerprint)
            except Conflict:
                continue
            except Unauthenticated:
                self._failures.note(peer)
                raise
        self._failures.note(peer)
        raise _refusal()

    async def _redeem_once(self, token: str, node: str, key_fingerprint: str) -> Grant:
        spelled = _SPELLING.fullmatch(token)
        if not spelled:
            raise _refusal()
        key = TOKEN_PREFIX + spelled[1]
        entry = await self._store.get(key)
        record = msgspec.json.decode(entry.value, type=_Record) if entry else None
        proven = hmac.compare_digest(_hash(spelled[2]), record.hash if record else _hash(""))
        if not entry or not record or not proven or record.expires <= self._clock.wall() or record.node != node:
            raise _refusal()
        if not record.key:
            record.key = key_fingerprint
            await self._store.transact([Unchanged(key, entry.revision)], [Put(key, msgspec.json.encode(record))])
        elif record.key != key_fingerprint:
            raise _refusal()
        return Grant(record.node, record.zone, record.labels)


class _Failures:
    """Failed attempts per peer, as buckets that drain with time; the least recent peers are forgotten first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check(self, peer: str) -> None:
        if self._level(peer) + 1 > FAILURES_ALLOWED:
            raise Exhausted(f"too many failed attempts to join from {peer}", hint="wait a minute")

    def note(self, peer: str) -> None:
        self._levels[peer] = (self._level(peer) + 1, self._clock.monotonic())
        self._levels.move_to_end(peer)
        while len(self._levels) > PEERS_REMEMBERED:
            self._levels.popitem(last=False)

    def _level(self, peer: str) -> float:
        level, at = self._levels.get(peer, (0.0, 0.0))
        return max(0.0, level - (self._clock.monotonic() - at) / FAILURE_EVERY_S)


def _refusal() -> Unauthenticated:
    return Unauthenticated(
        "this join token is unknown, used, expired, or made for another node",
        hint="make a new one: tokens live for 15 minutes and serve one node once",
    )


def _hash(secret: str) -> str:
    """Plain SHA-256 will do: the secret is random, so there is nothing to guess faster by a slow hash's absence."""
    return hashlib.sha256(secret.encode()).hexdigest()
