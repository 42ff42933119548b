"""Bootstrap tokens and the controller's CA: one use, one name, a quarter of an hour, no oracle, no leak."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from controller.ca import ClusterCA
from controller.store.memory import MemoryStore
from controller.tokens import FAILURES_ALLOWED, TOKEN_PREFIX, TTL_S, Grant, TokenBook
from podwire import tls
from podwire.errors import Exhausted, InvalidInput, Unauthenticated
from podwire.identity import Identity, Role
from podwire.seams import SeededRng
from tests.unit.security import DAY_S, MemoryDisk, MovingClock

KEY, OTHER_KEY = "11" * 32, "22" * 32


class Desk:
    """A book of tokens with everything it stands on."""

    def __init__(self) -> None:
        self.clock = MovingClock()
        self.store = MemoryStore(SeededRng(1))
        self.book = TokenBook(self.store, clock=self.clock, rng=SeededRng(2))

    async def redeem(self, token: str, node: str = "a", key: str = KEY, peer: str = "10.0.0.1") -> Grant:
        return await self.book.redeem(token, node, key, peer)


async def test_a_token_admits_its_node_with_zone_and_labels() -> None:
    desk = Desk()
    made = await desk.book.issue("a", zone="east", labels={"disk": "ssd"})
    assert await desk.redeem(made.token) == Grant("a", "east", {"disk": "ssd"})
    assert made.expires_unix_ms == int((desk.clock.now + TTL_S) * 1000)


async def test_a_lost_answer_may_be_asked_for_again_by_the_same_key_only() -> None:
    """One use means one key: the node retries, the thief does not."""
    desk = Desk()
    made = await desk.book.issue("a")
    first = await desk.redeem(made.token)
    assert await desk.redeem(made.token) == first
    with pytest.raises(Unauthenticated):
        await desk.redeem(made.token, key=OTHER_KEY)
    desk.clock.now += TTL_S + 1
    with pytest.raises(Unauthenticated):
        await desk.redeem(made.token)


async def test_every_refusal_reads_the_same() -> None:
    """A guesser does not learn which part was right."""
    desk = Desk()
    made = await desk.book.issue("a")
    identifier, secret = made.token.split(".")
    wrong = [
        ("", "a"),
        ("hello", "a"),
        (identifier, "a"),
        ("0" * 16 + "." + secret, "a"),
        (identifier + "." + secret[:-1] + ("A" if secret[-1] != "A" else "B"), "a"),
        (made.token + "\n", "a"),
        (made.token, "b"),
        (made.token, ""),
    ]
    messages = set()
    for turn, (token, node) in enumerate(wrong):
        with pytest.raises(Unauthenticated) as caught:
            await desk.redeem(token, node, peer=str(turn))
        messages.add(str(caught.value))
    desk.clock.now += TTL_S
    with pytest.raises(Unauthenticated) as caught:
        await desk.redeem(made.token)
    assert messages == {str(caught.value)}


async def test_of_many_racing_keys_one_wins() -> None:
    """The store's precondition decides, not who looked first."""
    desk = Desk()
    made = await desk.book.issue("a")
    tries = [desk.redeem(made.token, key=f"{turn:064x}", peer=str(turn)) for turn in range(20)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(result, Grant) for result in results) == 1
    assert sum(isinstance(result, Unauthenticated) for result in results) == 19


async def test_guessing_is_slowed_per_peer_and_others_are_not() -> None:
    desk = Desk()
    made = await desk.book.issue("a")
    for _ in range(FAILURES_ALLOWED):
        with pytest.raises(Unauthenticated):
            await desk.redeem("0" * 16 + "." + "x" * 43, peer="10.0.0.66")
    with pytest.raises(Exhausted):
        await desk.redeem(made.token, peer="10.0.0.66")
    assert await desk.redeem(made.token, peer="10.0.0.1")
    desk.clock.now += 60
    assert await desk.redeem(made.token, peer="10.0.0.66")


async def test_a_million_peers_take_no_more_memory_than_a_few_thousand() -> None:
    desk = Desk()
    for turn in range(5_000):
        with pytest.raises(Unauthenticated):
            await desk.redeem("x", peer=str(turn))
    assert len(desk.book._failures._levels) <= 4_096


async def test_the_store_never_holds_the_token_and_expired_ones_go() -> None:
    desk = Desk()
    made = [await desk.book.issue("a") for _ in range(3)]
    entries, _ = await desk.store.list(TOKEN_PREFIX)
    for token in made:
        assert not any(token.token.split(".")[1].encode() in entry.value for entry in entries)
        assert token.token not in repr(token)
    desk.clock.now += TTL_S + 1
    await desk.book.issue("b")
    entries, _ = await desk.store.list(TOKEN_PREFIX)
    assert [json.loads(entry.value)["node"] for entry in entries] == ["b"]


async def test_tokens_do_not_repeat_and_are_long() -> None:
    desk = Desk()
    tokens = {(await desk.book.issue("a")).token for _ in range(50)}
    assert len(tokens) == 50
    assert all(re.fullmatch(r"[0-9a-f]{16}\.[-_\w]{43}", token) for token in tokens)  # 256 bits


@given(st.text(), st.text(), st.text())
def test_no_input_breaks_the_book(token: str, node: str, peer: str) -> None:
    """Whatever is sent, the answer is a refusal."""

    async def attempt() -> None:
        desk = Desk()
        await desk.book.issue("a")
        with capture_logs() as logs, pytest.raises(Unauthenticated):
            await desk.redeem(token, node, peer=peer)
        assert logs == []

    with asyncio.Runner() as runner:
        runner.run(attempt())


class TestClusterCA:
    """The CA as the controller keeps it."""

    def opened(self, disk: MemoryDisk, clock: MovingClock) -> ClusterCA:
        return ClusterCA.open("lab", Path("/state/ca"), clock=clock, rng=SeededRng(3), disk=disk)

    def test_it_is_made_once(self) -> None:
        disk, clock = MemoryDisk(), MovingClock()
        first, second = self.opened(disk, clock), self.opened(disk, clock)
        assert first.spki_sha256 == second.spki_sha256
        assert first.ca_pem == second.ca_pem

    def test_a_deleted_nodes_certificates_are_refused_over_restarts(self) -> None:
        """All that it has, and none of the one that joins under its name later, and nobody else's."""
        disk, clock = MemoryDisk(), MovingClock()
        ca = self.opened(disk, clock)
        csr = tls.make_key_and_csr("a")[1]
        old = [tls.identity_of(ca.sign_node(csr, "a")) for _ in range(2)]
        neighbour = tls.identity_of(ca.sign_node(csr, "b"))
        assert old[0] == Identity(Role.NODE, "a", "lab")
        ca.deny_node("a")
        ca = self.opened(disk, clock)
        new = tls.identity_of(ca.sign_node(csr, "a"))
        assert [bool(ca.refusal(identity)) for identity in (*old, new, neighbour)] == [True, True, False, False]
        ca.deny_node("never-seen")

    def test_dead_certificates_are_forgotten(self) -> None:
        """The ledger holds a day's certificates, not a year's."""
        disk, clock = MemoryDisk(), MovingClock()
        ca = self.opened(disk, clock)
        csr = tls.make_key_and_csr("a")[1]
        for _ in range(10):
            ca.sign_node(csr, "a")
            ca.deny_node("a")
            clock.now += DAY_S + 1
        ca.sign_node(csr, "a")
        ledger = json.loads(disk.files[Path("/state/ca/certificates.json")])
        assert (len(ledger["issued"]["a"]), ledger["denied"]) == (1, {})

    def test_a_bad_request_leaves_no_trace(self) -> None:
        disk = MemoryDisk()
        with pytest.raises(InvalidInput):
            self.opened(disk, MovingClock()).sign_node(b"?", "a")
        assert Path("/state/ca/certificates.json") not in disk.files

    def test_a_certificate_that_could_not_be_recorded_is_not_given_away(self) -> None:
        """Or it could never be revoked."""
        disk = MemoryDisk()
        ca = self.opened(disk, MovingClock())
        disk.fail = {"certificates.json"}
        with pytest.raises(OSError, match="space"):
            ca.sign_node(tls.make_key_and_csr("a")[1], "a")

    def test_users_and_the_controller(self) -> None:
        ca = self.opened(MemoryDisk(), MovingClock())
        assert tls.identity_of(ca.issue_user("ann").certificate_pem) == Identity(Role.USER, "ann", "lab")
        assert tls.identity_of(ca.issue_controller().certificate_pem) == Identity(Role.CONTROLLER, "", "lab")
