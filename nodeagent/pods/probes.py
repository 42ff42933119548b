"""Probes: asks a running container at intervals, and says when enough answers in a row change the verdict.

In: a `ProbeSpec`, the pod's address, a Clock. Out: verdicts, through `Prober.run`; what a verdict means (ready, restart) is the life
cycle's. HTTP and TCP go from the node to the pod's address, as a kubelet's do; commands run through what the caller passes in.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from nodeagent.pods.pod import ExecCheck, HttpCheck, ProbeSpec, TcpCheck
from nodeagent.workload.fetch import TIMED_OUT, get
from nodeagent.workload.sockets import NetError, go_reason, host_port
from podwire.errors import PodwireError
from podwire.seams import Clock

T = TypeVar("T")
Exec = Callable[[tuple[str, ...]], Awaitable[tuple[int, str]]]
BODY_SHOWN = 256


@dataclass(frozen=True, slots=True)
class Result:
    """One answer; `detail` says why not."""

    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Tally:
    """Answers in a row, and the verdict they have led to."""

    verdict: bool
    streak: int = 0
    last: bool | None = None


def count(tally: Tally, *, ok: bool, spec: ProbeSpec) -> tuple[Tally, bool]:
    """The tally after one more answer, and whether a threshold was reached by it: successes or failures in a row."""
    streak = tally.streak + 1 if tally.last is ok else 1
    reached = streak >= (spec.success_threshold if ok else spec.failure_threshold)
    return Tally(ok if reached else tally.verdict, streak, ok), reached


class Checker(Protocol):
    """Asks once."""

    async def check(self, spec: ProbeSpec, address: str, execute: Exec) -> Result:
        """One answer within the probe's timeout; never raises for a container that does not answer."""


class NetworkChecker:
    """The real one: from this process's network namespace, which is the node's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def check(self, spec: ProbeSpec, address: str, execute: Exec) -> Result:
        try:
            return await within(self._clock, spec.timeout_s, self._ask(spec, address, execute))
        except TimeoutError:
            return Result(ok=False, detail=_timeout_text(spec, address))
        except (NetError, PodwireError) as error:
            return Result(ok=False, detail=_sentence(spec, address, str(error)))

    async def _ask(self, spec: ProbeSpec, address: str, execute: Exec) -> Result:
        match spec.check:
            case HttpCheck() as http:
                opened = _open_tls if http.scheme == "HTTPS" else _open
                headers = {"User-Agent": "kube-probe/podwire", "Accept": "*/*", **dict(http.headers)}
                got = await get(opened, http.host or address, http.port, _target(http.path), headers=headers)
                if 200 <= got.status < 400:
                    return Result(ok=True)
                return Result(ok=False, detail=f"HTTP probe failed with statuscode: {got.status}")
            case TcpCheck(port):
                _, writer = await _open(address, port)
                writer.close()
                return Result(ok=True)
            case ExecCheck(argv):
                code, output = await execute(argv)
                return Result(ok=code == 0, detail=output.strip()[:BODY_SHOWN])


async def watch(
    spec: ProbeSpec,
    ask: Callable[[], Awaitable[Result]],
    verdict: Callable[[bool, Result], None],
    clock: Clock,
    *,
    initially: bool,
    delay_s: float,
) -> None:
    """Asks until cancelled: `verdict` is told of every failure, and of every change of mind."""
    tally = Tally(initially)
    await clock.sleep(delay_s)
    while True:
        result = await ask()
        tally, reached = count(tally, ok=result.ok, spec=spec)
        if reached or not result.ok:
            verdict(reached, result)
        await clock.sleep(spec.period_s)


async def within(clock: Clock, seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """`asyncio.timeout` by the injected clock; raises TimeoutError."""
    doing, limit = asyncio.ensure_future(work), asyncio.ensure_future(clock.sleep(seconds))
    try:
        await asyncio.wait({doing, limit}, return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise TimeoutError
        return doing.result()
    finally:
        for task in (doing, limit):
            task.cancel()
        await asyncio.gather(doing, limit, return_exceptions=True)


async def _open(address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await _connect(address, port, None)


async def _open_tls(address: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # a kubelet does not verify either: it asks whether something answers
    context.verify_mode = ssl.CERT_NONE
    return await _connect(address, port, context)


async def _connect(
    address: str, port: int, tls: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await asyncio.open_connection(address, port, ssl=tls)
    except OSError as error:
        reason = go_reason(error) if error.errno else str(error)
        raise NetError("other", f"dial tcp {host_port(address, port)}: connect: {reason}") from error


def _target(path: str) -> str:
    return path if path.startswith("/") else f"/{path}"


def _sentence(spec: ProbeSpec, address: str, reason: str) -> str:
    if isinstance(spec.check, HttpCheck):
        check = spec.check
        url = f"{check.scheme.lower()}://{host_port(check.host or address, check.port)}{_target(check.path)}"
        return f'Get "{url}": {reason}'
    return reason


def _timeout_text(spec: ProbeSpec, address: str) -> str:
    match spec.check:
        case HttpCheck():
            return _sentence(spec, address, TIMED_OUT)
        case TcpCheck(port):
            return f"dial tcp {host_port(address, port)}: i/o timeout"
        case ExecCheck():
            return f"command timed out after {spec.timeout_s:g}s"
