"""nftables: whole tables through libnftables, set elements through nfnetlink by hand.

In: command text from `guard.py`, and set elements as packed keys. Out: one transaction each, and readings of what is there. The
skeleton (tables, chains, rules, sets) changes rarely, and libnftables knows its grammar; elements change with every pod, and packed
by hand over one socket that stays open they cost microseconds (closing an nfnetlink socket after a delete waits 16 ms).
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nodeagent.kernel.netlink import (
    CREATE,
    NETLINK_NETFILTER,
    NetlinkSocket,
    Refusal,
    attr,
    attr_string,
    attributes,
    elements,
    message,
    nested,
)
from podwire.errors import KernelError, Unsupported

FAMILIES = {"ip": 2, "bridge": 7, "ip6": 10}

_NFT = 10 << 8
_GET_TABLE, _GET_CHAIN, _GET_RULE, _GET_SET = _NFT | 1, _NFT | 4, _NFT | 7, _NFT | 10
_NEW_ELEMENT, _GET_ELEMENT, _DELETE_ELEMENT, _GET_GENERATION = _NFT | 12, _NFT | 13, _NFT | 14, _NFT | 16
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_MAX_LIST_BYTES = 60_000  # a list attribute's length is 16 bits

_BEGIN = message(_BATCH_BEGIN, 0, struct.pack(">BBH", 0, 0, 10))
_END = message(_BATCH_END, 0, struct.pack(">BBH", 0, 0, 10))


class _Library:
    """libnftables, loaded at first use: a machine that lacks it can still run everything else."""

    def __init__(self) -> None:
        try:
            library = ctypes.CDLL("libnftables.so.1")
        except OSError as error:
            raise Unsupported("libnftables.so.1 is not installed", hint="install the nftables package") from error
        library.nft_ctx_new.argtypes = [ctypes.c_uint32]
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_free.argtypes = [ctypes.c_void_p]
        library.nft_ctx_buffer_error.argtypes = [ctypes.c_void_p]
        library.nft_ctx_buffer_output.argtypes = [ctypes.c_void_p]
        library.nft_ctx_get_error_buffer.argtypes = [ctypes.c_void_p]
        library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        library.nft_run_cmd_from_buffer.restype = ctypes.c_int
        self._library = library

    def run(self, commands: str) -> str:
        """Empty, or what libnftables complained about."""
        library = self._library
        context = library.nft_ctx_new(0)
        try:
            library.nft_ctx_buffer_error(context)
            library.nft_ctx_buffer_output(context)
            if library.nft_run_cmd_from_buffer(context, commands.encode()) == 0:
                return ""
            text = library.nft_ctx_get_error_buffer(context) or b""
            return str(text.decode(errors="replace")).strip() or "libnftables gave no reason"
        finally:
            library.nft_ctx_free(context)


_loaded: list[_Library] = []


def run_commands(commands: str, obj: str) -> None:
    """Carries out nft commands as one transaction, in the calling thread's network namespace.

    Raises:
        KernelError: nothing was changed; names `obj`.
        Unsupported: libnftables is not installed.
    """
    if not _loaded:
        _loaded.append(_Library())
    complaint = _loaded[0].run(commands)
    if complaint:
        raise KernelError(errno.EINVAL, "change", obj, " ".join(complaint.split()))


@dataclass(frozen=True, slots=True)
class SetId:
    """A set of our table."""

    family: str
    table: str
    name: str


@dataclass(frozen=True, slots=True)
class TableReading:
    """What is in a table, as far as it can be compared with what was asked: comments are ours and hold digests and ordinals."""

    comment: str
    dormant: bool
    chains: Mapping[str, str]  # name → "type hook priority policy", or "" when nothing hooks it
    rules: Mapping[str, tuple[str, ...]]  # chain → the comments of its rules, in order
    sets: frozenset[str]


class NftSocket:
    """One long-lived nfnetlink socket, bound to the network namespace it was opened in."""

    def __init__(self) -> None:
        self._socket = NetlinkSocket(NETLINK_NETFILTER)

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    @property
    def port(self) -> int:
        """The port ID that notifications of this socket's own changes carry."""
        return self._socket.port

    def generation(self) -> int:
        """Counts the namespace's nftables transactions: as long as it stands still, a reading stays true."""
        answer = self._socket.ask(message(_GET_GENERATION, 0, _head(0)))
        if isinstance(answer, Refusal):
            raise answer.error("read", "the nftables generation")
        return int.from_bytes(attributes(answer[1], 4)[1], "big")

    def change(
        self, add: Mapping[SetId, Iterable[bytes]], delete: Mapping[SetId, Iterable[bytes]] | None = None
    ) -> None:
        """Adds and deletes set elements in one transaction; adding what is there is no error.

        Raises:
            KernelError: nothing was changed. ENOENT: a set is not there, or an element to delete.
        """
        messages: list[bytes] = []
        names: list[SetId] = []
        for verb, flags, changes in ((_DELETE_ELEMENT, 0, delete or {}), (_NEW_ELEMENT, CREATE, add)):
            for target, keys in changes.items():
                for packed in _element_lists(keys):
                    head = _head(FAMILIES[target.family]) + attr_string(1, target.table) + attr_string(2, target.name)
                    messages.append(message(verb, flags, head, packed))
                    names.append(target)
        if not messages:
            return
        while True:
            refused = self._socket.transact(_BEGIN, messages, _END)
            if refused is None:
                return
            place, why = refused
            if why.errno in {errno.EAGAIN, errno.EINTR}:
                continue  # another writer committed in between
            target = names[max(place, 0) % len(names)]
            raise why.error("change", f"nft set {target.family} {target.table} {target.name}")

    def elements(self, target: SetId) -> set[bytes] | None:
        """The keys of a set, or None when there is no such set."""
        head = _head(FAMILIES[target.family]) + attr_string(1, target.table) + attr_string(2, target.name)
        found: set[bytes] = set()
        try:
            dumped = self._socket.dump(message(_GET_ELEMENT, 0, head), f"nft set {target.name}")
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        for _, payload in dumped:
            listed = attributes(payload, 4).get(3)
            if listed is None:
                continue
            for element in elements(listed):
                key = attributes(element).get(1)
                if key is not None:
                    found.add(attributes(key)[1])
        return found

    def table(self, family: str, name: str) -> TableReading | None:
        """Reads a table's skeleton; None when there is no such table."""
        head = _head(FAMILIES[family])
        answer = self._socket.ask(message(_GET_TABLE, 0, head, attr_string(1, name)))
        if isinstance(answer, Refusal):
            if answer.errno == errno.ENOENT:
                return None
            raise answer.error("read", f"nft table {family} {name}")
        found = attributes(answer[1], 4)
        chains: dict[str, str] = {}
        for parts in self._dump_of(_GET_CHAIN, head, b"", name, "chains"):
            chains[_text(parts[3])] = _hook(parts)
        rules: dict[str, list[str]] = {chain: [] for chain in chains}
        for parts in self._dump_of(_GET_RULE, head, attr_string(1, name), name, "rules"):
            rules.setdefault(_text(parts[2]), []).append(_comment(parts.get(7, b"")))
        sets = frozenset(_text(parts[2]) for parts in self._dump_of(_GET_SET, head, attr_string(1, name), name, "sets"))
        dormant = bool(int.from_bytes(found.get(2, b""), "big") & 1)
        return TableReading(
            _comment(found.get(6, b"")), dormant, chains, {chain: tuple(marks) for chain, marks in rules.items()}, sets
        )

    def _dump_of(self, kind: int, head: bytes, narrow: bytes, table: str, what: str) -> list[dict[int, bytes]]:
        dumped = self._socket.dump(message(kind, 0, head, narrow), f"nft {what} of table {table}")
        found = [attributes(payload, 4) for _, payload in dumped]
        return [parts for parts in found if _text(parts.get(1, b"")) == table]


def _head(family: int) -> bytes:
    return struct.pack(">BBH", family, 0, 0)


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode(errors="replace")


def _hook(parts: Mapping[int, bytes]) -> str:
    """A base chain's hook as text, or empty for one that is only jumped to."""
    if 4 not in parts:
        return ""
    hook = attributes(parts[4])
    number, priority = struct.unpack(">I", hook[1])[0], struct.unpack(">i", hook[2])[0]
    policy = struct.unpack(">I", parts[5])[0] if 5 in parts else 1
    return f"{_text(parts.get(7, b''))} {number} {priority} {policy}"


def _comment(userdata: bytes) -> str:
    """The comment in libnftables' user data: (kind, length, value), the comment has kind 0."""
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == 0:
            return _text(userdata[offset + 2 : offset + 2 + length])
        offset += 2 + length
    return ""


def _element_lists(keys: Iterable[bytes]) -> Iterable[bytes]:
    """List attributes of at most 60 kB holding one element per key."""
    packed: list[bytes] = []
    size = 0
    for key in keys:
        element = nested(1, nested(1, attr(1, key)))
        if size + len(element) > _MAX_LIST_BYTES:
            yield nested(3, *packed)
            packed, size = [], 0
        packed.append(element)
        size += len(element)
    if packed:
        yield nested(3, *packed)


def pad(parts: Sequence[bytes]) -> bytes:
    """The key of a concatenated set: each part padded to four bytes."""
    return b"".join(part + bytes(-len(part) % 4) for part in parts)
