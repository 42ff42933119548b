"""Pods that talk without a pause, and what they lost while something was done to their cluster.

In: pods by name. Out: a `Mesh` of `prober.py` processes, one in each pod's namespace, that send each other numbered datagrams and streams;
`losses` compares what was sent with what arrived. The processes are no containers, so nothing but packets depends on podwire.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.inside import Inside

SOURCE = (Path(__file__).parent / "prober.py").read_text()
PORT, PACKETS_PER_S = 9000, 1000
ANSWER_WITHIN_S = 20.0


@dataclass(frozen=True)
class Mesh:
    """Probers that run."""

    probers: Mapping[str, asyncio.subprocess.Process]  # by pod address

    async def ask(self, command: str = "") -> dict[str, dict[str, Any]]:
        """Sends all a line, or none, and takes an answer of each."""

        async def one(process: asyncio.subprocess.Process) -> dict[str, Any]:
            assert process.stdin is not None
            assert process.stdout is not None
            if command:
                process.stdin.write(f"{command}\n".encode())
            line = await asyncio.wait_for(process.stdout.readline(), ANSWER_WITHIN_S)
            if not line:
                assert process.stderr is not None
                raise AssertionError((await process.stderr.read()).decode())
            answer: dict[str, Any] = json.loads(line)
            return answer

        answers = await asyncio.gather(*(one(process) for process in self.probers.values()))
        return dict(zip(self.probers, answers, strict=True))

    async def losses(self) -> list[str]:
        """Ends the sending; a sentence per pair of pods that lost anything."""
        sent = await self.ask("stop")
        arrived = await self.ask("report")
        found = []
        for source, target in ((source, target) for source in sent for target in sent if source != target):
            out, into = sent[source][target], arrived[target][source]
            lost = {kind: out[kind] - into[kind] for kind in ("datagrams", "numbers")}
            if any(lost.values()) or into["broken"] or out["retransmits"]:
                found.append(f"{source} to {target}: sent {out}, arrived {into}")
        return found


@contextlib.asynccontextmanager
async def talking(inside: Inside, addresses: Mapping[str, str]) -> AsyncIterator[Mesh]:
    """Pods (name → address) that talk within the block, every one with every other."""
    probers = {}
    try:
        for pod, address in addresses.items():
            others = [other for other in addresses.values() if other != address]
            probers[address] = await _start(await inside.pod(pod, inside.python, "-c", SOURCE), others)
        mesh = Mesh(probers)
        await mesh.ask()
        yield mesh
    finally:
        for process in probers.values():
            assert process.stdin is not None
            process.stdin.close()
        await asyncio.gather(*(process.wait() for process in probers.values()))


async def _start(command: Sequence[str], peers: Sequence[str]) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *command, str(PORT), str(PACKETS_PER_S), *peers, stdin=pipe, stdout=pipe, stderr=pipe
    )
