"""Probes over loopback: what answers, what refuses, what stays silent."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import pytest

from nodeagent.probing import Prober, Source, checksum, echo_request, is_reply
from podwire.api.v1 import node_agent_pb2 as api
from podwire.seams import SystemClock

HERE = Source("", (ipaddress.ip_address("127.0.0.1"),))


def open_here(pin: str, family: int, kind: int, protocol: int) -> socket.socket:
    assert pin == ""
    return socket.socket(family, kind, protocol)


async def probe(target: api.ProbeTarget, source: Source | None = HERE) -> api.ProbeResult:
    [result] = await Prober(open_here, SystemClock()).probe([(source, target)])
    return result


async def test_tcp_answers_and_refuses() -> None:
    """A listener answers with what it says; a closed port refuses."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"got " + await reader.read(64))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    result = await probe(
        api.ProbeTarget(id="x", address="127.0.0.1", port=port, kind=api.PROBE_KIND_TCP, payload=b"hi")
    )
    assert (result.id, result.ok, result.answer) == ("x", True, b"got hi")
    server.close()
    await server.wait_closed()
    refused = await probe(api.ProbeTarget(address="127.0.0.1", port=port, kind=api.PROBE_KIND_TCP))
    assert (refused.ok, refused.error) == (False, "refused")


async def test_udp_without_an_answer_times_out() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        result = await probe(api.ProbeTarget(address="127.0.0.1", port=port, kind=api.PROBE_KIND_UDP, timeout_ms=50))
    assert (result.ok, result.error) == (False, "timeout")


async def test_a_pod_that_is_not_here_is_said_so() -> None:
    result = await probe(api.ProbeTarget(address="127.0.0.1", kind=api.PROBE_KIND_ICMP), source=None)
    assert "no network on this node" in result.error


async def test_a_name_is_not_an_address() -> None:
    result = await probe(api.ProbeTarget(address="example", kind=api.PROBE_KIND_TCP, port=1))
    assert not result.ok
    assert "example" in result.error


@pytest.mark.kernel
async def test_icmp_is_answered() -> None:
    """Raw sockets need root."""
    result = await probe(api.ProbeTarget(address="127.0.0.1", kind=api.PROBE_KIND_ICMP, size=100))
    assert result.ok, result.error


def test_an_echo_request_has_a_right_checksum() -> None:
    """The checksum over a packet that carries its checksum is zero (RFC 1071)."""
    assert checksum(echo_request(4, 7, b"odd")) == 0


def test_only_the_own_reply_counts() -> None:
    header = bytes([0x45]) + bytes(19)
    reply = header + bytes([0, 0, 0, 0, 0, 7, 0, 1])
    assert is_reply(4, 7, reply)
    assert not is_reply(4, 8, reply)
    assert not is_reply(4, 7, header + bytes([8, 0, 0, 0, 0, 7, 0, 1]))
    assert is_reply(6, 7, bytes([129, 0, 0, 0, 0, 7, 0, 1]))
