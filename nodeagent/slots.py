"""Slots: which sandbox belongs to which pod, durably, before the sandbox or its pod's wiring exists.

In: the journal's records and what the kernel shows. Out: an owner per slot. A slot is 12 random hex digits that name one sandbox of one
boot of the node and are never used again; a warm sandbox has a slot without an owner. When the journal is lost, the aliases of the host
ends say who owns what.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nodeagent.journal import Record
from nodeagent.kernel.base import ObservedPodLink, Sandbox
from podwire.seams import Rng

SLOT_RECORD = 4  # "slot uid boot_id"; an empty uid is a warm one
SLOT_GONE_RECORD = 5  # "slot"


class Slots:
    """Owners by slot, of this boot only: the sandboxes of an earlier boot are gone with it."""

    def __init__(self, boot_id: str, rng: Rng) -> None:
        self._boot_id = boot_id
        self._rng = rng
        self._owners: dict[str, str] = {}
        self._slots: dict[str, str] = {}  # UID → the slot that counts, when a crash left it two

    @property
    def owners(self) -> Mapping[str, str]:
        """Slot → UID, or "" for a warm one."""
        return self._owners

    def slot_of(self, uid: str) -> str | None:
        """The slot a pod has now."""
        return self._slots.get(uid)

    def load(self, records: Iterable[Record]) -> None:
        """Takes the journal's word for this boot."""
        for record in records:
            if record.kind == SLOT_RECORD:
                slot, uid, boot_id = record.payload.decode().split(" ")
                if boot_id == self._boot_id:
                    self._own(slot, uid)
            elif record.kind == SLOT_GONE_RECORD:
                self._disown(record.payload.decode())

    def records(self) -> list[Record]:
        """All that is true now, for a rewrite of the journal."""
        return [self._record(slot, uid) for slot, uid in self._owners.items()]

    def learn(self, links: Iterable[ObservedPodLink]) -> None:
        """Adopts what the aliases say of slots that the journal does not know."""
        for link in links:
            if link.slot and not self._owners.get(link.slot):
                self._own(link.slot, link.uid)

    def of(self, uids: Iterable[str], sandboxes: Sequence[Sandbox]) -> tuple[dict[str, str], list[Record]]:
        """A slot per pod: the one it has, unless its sandbox is dead; else a warm one; else a new one. Returns them with the records
        to make durable before any of the new ones is used.
        """
        alive = {sandbox.slot for sandbox in sandboxes if sandbox.pid}
        dead = {sandbox.slot for sandbox in sandboxes} - alive
        warm = [slot for slot, uid in self._owners.items() if not uid and slot in alive]
        chosen: dict[str, str] = {}
        fresh: list[Record] = []
        for uid in uids:
            slot = self._slots.get(uid)
            if slot is None or slot in dead:
                slot = warm.pop() if warm else self._new()
                self._own(slot, uid)
                fresh.append(self._record(slot, uid))
            chosen[uid] = slot
        return chosen, fresh

    def warm(self, count: int) -> tuple[list[str], list[Record]]:
        """New slots for sandboxes made ahead, with the records to make durable first."""
        slots = [self._new() for _ in range(count)]
        self._owners.update((slot, "") for slot in slots)
        return slots, [self._record(slot, "") for slot in slots]

    def forget(self, slots: Iterable[str]) -> list[Record]:
        """Slots whose sandbox is gone for good."""
        known = [slot for slot in dict.fromkeys(slots) if slot in self._owners]
        for slot in known:
            self._disown(slot)
        return [Record(SLOT_GONE_RECORD, slot.encode()) for slot in known]

    def _own(self, slot: str, uid: str) -> None:
        self._owners[slot] = uid
        if uid:
            self._slots[uid] = slot  # of two, the newer: the older was replaced and is on its way out

    def _disown(self, slot: str) -> None:
        uid = self._owners.pop(slot, "")
        if self._slots.get(uid) == slot:
            del self._slots[uid]

    def _new(self) -> str:
        return self._rng.token(6).hex()

    def _record(self, slot: str, uid: str) -> Record:
        return Record(SLOT_RECORD, f"{slot} {uid} {self._boot_id}".encode())
