"""Wiring only: `python -m nodeagent --state-dir DIR --run-dir DIR` builds the agent's objects and runs them until it is told to stop.

In: flags, and a join file in the state directory. Out: an exit code; 0 after TERM or INT. Killing it at any moment costs no packet: the next
one reads its journal and the kernel and goes on.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from nodeagent import facts
from nodeagent.agent import NodeAgent
from nodeagent.authz import TABLE
from nodeagent.config import Settings, parse
from nodeagent.desired import Assembler, snapshot_record
from nodeagent.join import Enrolment, Member
from nodeagent.journal import Journal, Record
from nodeagent.kernel import netns
from nodeagent.kernel.linux import LinuxKernel, Notifications
from nodeagent.kernel.spawner import Spawner
from nodeagent.pods.exec import ExecRunner
from nodeagent.pods.files import Resolver, parse_resolv_conf
from nodeagent.pods.hosted import HostedRunner
from nodeagent.pods.lifecycle import PodLifecycles
from nodeagent.pods.process import ProcessRunner
from nodeagent.pods.runs import NodeFacts as PodNodeFacts
from nodeagent.probing import Prober
from nodeagent.report import NodeFacts, Reports
from nodeagent.serve import NodeAgentServicer
from nodeagent.slots import Slots
from nodeagent.sync import Synchroniser
from nodeagent.threads import Lanes
from nodeagent.transport import GrpcConnector
from podwire import rpc
from podwire.aio import Supervisor
from podwire.api.v1 import node_agent_pb2_grpc as api_grpc
from podwire.seams import PassingDisk, SystemClock, SystemDisk, SystemRng
from podwire.telemetry import logger, setup

log = logger(__name__)

STOP_WITHIN_S = 1.0
HINT_EVERY_S = 0.1
FIRST_TURN_S = 5.0  # how long a controller waits for an agent whose kernel does not answer
RESOLV_CONF = Path("/etc/resolv.conf")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the agent; returns its exit code."""
    settings = parse(sys.argv[1:] if argv is None else argv)
    setup("nodeagent")
    gc.set_threshold(50_000, 20, 100)  # pods are many values and few cycles
    return asyncio.run(run(settings))


async def run(settings: Settings) -> int:
    """Joins, builds, serves, until a signal comes."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings.ready_file.unlink(missing_ok=True)
    clock, rng, disk = SystemClock(), SystemRng(), SystemDisk()
    enrolment = Enrolment(settings.state_dir, clock=clock, rng=rng, disk=disk)
    joining = asyncio.ensure_future(enrolment.member())
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((joining, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not joining.done():
        joining.cancel()
        return 0
    await Node(settings, joining.result(), enrolment, clock=clock, rng=rng, disk=disk).run(stop)
    return 0


class Node:
    """All objects of one agent, built in the order in which they need each other."""

    def __init__(
        self,
        settings: Settings,
        member: Member,
        enrolment: Enrolment,
        *,
        clock: SystemClock,
        rng: SystemRng,
        disk: SystemDisk,
    ) -> None:
        self.settings = settings
        self.member = member
        self.enrolment = enrolment
        self.clock = clock
        self.rng = rng
        boot_id = facts.boot_id()
        self._listen: asyncio.TimerHandle | None = None
        self.lanes = Lanes()
        self.kernel = LinuxKernel()
        spawner = Spawner(settings.run_dir / "helper.sock", settings.run_dir, clock=clock)
        processes = ProcessRunner(spawner, settings.run_dir, boot_id=boot_id, clock=clock, disk=disk)
        hosted = HostedRunner(settings.run_dir / "workload.sock", clock, disk)
        self.commands = ExecRunner(spawner, processes, clock=clock)
        self.assembler = Assembler()
        self.slots = Slots(boot_id, rng)
        self.journal = Journal(disk, settings.journal, self._compacted)
        records = self.journal.open()
        if self.journal.lost_bytes:
            log.warning("journal_tail_lost", bytes=self.journal.lost_bytes)
        self.assembler.load(records)
        self.slots.load(records)
        self.lives = PodLifecycles(
            hosted=hosted,
            process=processes,
            clock=clock,
            disk=disk,
            state_dir=settings.state_dir,
            run_dir=settings.run_dir,
            node=self._pod_facts,
            on_change=self._pod_changed,
            exec_runner=self.commands,
            passing=PassingDisk(),
        )
        self.agent = NodeAgent(
            kernel=self.kernel,
            sandboxes=spawner,
            lives=self.lives,
            threads=self.lanes,
            assembler=self.assembler,
            slots=self.slots,
            journal=self.journal,
            clock=clock,
            warm_sandboxes=settings.warm_sandboxes,
        )
        _, addresses, _ = self.kernel.underlay()
        self.agent.underlay_addresses = [str(address) for address in addresses]
        node_facts = NodeFacts(boot_id, settings.agent_port, facts.privileges(), self.kernel.capabilities())
        reports = Reports(
            facts=node_facts, agent=self.agent, lives=self.lives, assembler=self.assembler, degraded=self._degraded
        )
        self.sync = Synchroniser(
            connector=GrpcConnector(lambda: rpc.channel(*rpc.split_address(member.controller), member.credentials)),
            assembler=self.assembler,
            journal=self.journal,
            reporter=reports,
            clock=clock,
            rng=rng,
            on_desired=lambda _desired: self.agent.planned(),
        )
        self.agent.on_report.append(self.sync)

    def _compacted(self) -> list[Record]:
        return [snapshot_record(self.assembler.desired), *self.slots.records()]

    def _pod_facts(self) -> PodNodeFacts:
        """What pods may know of this node, as it is now."""
        return PodNodeFacts(
            name=self.member.node,
            addresses=tuple(self.agent.underlay_addresses),
            dns_domain=self.assembler.desired.cluster.dns_domain,
            resolver=resolver_of_node(),
        )

    def _pod_changed(self, uid: str) -> None:
        self.sync.note_changed([uid])

    def _degraded(self) -> list[str]:
        """What is weaker here than it could be, beyond what the controller says of the whole cluster."""
        cluster = self.assembler.desired.cluster
        return (
            ["pod ports are not guarded: spec.network.guard is false"] if cluster.cluster and not cluster.guard else []
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Runs everything until told to stop; the node and its pods stay as they are."""
        server = rpc.server(TABLE, self.member.cluster, clock=self.clock, rng=self.rng)
        servicer = NodeAgentServicer(
            agent=self.agent,
            assembler=self.assembler,
            slots=self.slots,
            lives=self.lives,
            commands=self.commands,
            prober=Prober(open_socket, self.clock),
            clock=self.clock,
        )
        api_grpc.add_NodeAgentServiceServicer_to_server(servicer, server)
        presented = rpc.ServerCredentials(self.member.credentials)
        rpc.listen_tls(server, self.agent.underlay_addresses[0], self.settings.agent_port, presented)
        await server.start()
        hints = self.kernel.notifications()
        asyncio.get_running_loop().add_reader(hints.fileno(), self._hinted, hints)
        try:
            async with Supervisor(clock=self.clock, rng=self.rng) as tasks:
                tasks.keep("agent", self._live)
                tasks.keep("sync", self._synchronise)
                tasks.keep("certificate", lambda: self.enrolment.keep_renewed(self.member, presented.replace))
                tasks.keep("ready", self._say_ready)
                log.info("agent_started", node=self.member.node, cluster=self.member.cluster)
                await stop.wait()
        finally:
            await server.stop(STOP_WITHIN_S)
            if self._listen is not None:
                self._listen.cancel()
            asyncio.get_running_loop().remove_reader(hints.fileno())
            hints.close()
            await self.lives.close()
            self.lanes.close()
            self.kernel.close()

    async def _synchronise(self) -> None:
        """Speaks to the controller once it is known what runs here: what a Hello says of pods becomes their status at once."""
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_TURN_S):
                await self.agent.turned.wait()
        await self.sync.run()

    async def _live(self) -> None:
        """Finds the containers that run, then keeps the node right."""
        await self.lives.adopt()
        await self.agent.run()

    def _hinted(self, hints: Notifications) -> None:
        """The kernel says that somebody else changed something; what, the next reading tells. Of a burst, which our own work is for
        the most part, one hint is enough: the descriptor is left alone for a moment.
        """
        loop = asyncio.get_running_loop()
        loop.remove_reader(hints.fileno())
        if hints.drain():
            self.agent.look()
        self._listen = loop.call_later(HINT_EVERY_S, loop.add_reader, hints.fileno(), self._hinted, hints)

    async def _say_ready(self) -> None:
        """Makes the ready file once a whole plan has been applied."""
        while self.agent.applied_at == float("-inf"):
            await self.clock.sleep(0.05)
        self.settings.ready_file.touch()


def resolver_of_node() -> Resolver:
    """The node's resolv.conf as it is now; nothing where there is none."""
    try:
        return _resolver(RESOLV_CONF.stat().st_mtime_ns)
    except FileNotFoundError:
        return Resolver(())


@lru_cache(maxsize=1)
def _resolver(_modified_ns: int) -> Resolver:
    return parse_resolv_conf(RESOLV_CONF.read_text())


def open_socket(pin: str, family: int, kind: int, protocol: int) -> socket.socket:
    """A socket bound to a pod's namespace, or to the node's own for an empty pin."""
    if not pin:
        return socket.socket(family, kind, protocol)
    namespace = os.open(pin, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return netns.run_in(namespace, lambda: socket.socket(family, kind, protocol))
    finally:
        os.close(namespace)


if __name__ == "__main__":
    sys.exit(main())
