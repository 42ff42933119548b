"""A whole cluster in one process, by seed: the real controller and real agents over a fake kernel, clock, disk and network.

In: a seed, and verbs (make pods, crash, cut, damage, let time pass). Out: after `settle`, the invariants of `check`: no two pods share
an address, every pod that should run reaches every other, and nothing is left of those that should not. One seed is one run: time is
virtual, and every choice comes from the seed.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import looptime

from controller.config import RecoverySettings, Settings
from controller.controller import Controller
from controller.store.ledger import Image
from controller.store.memory import MemoryStore
from nodeagent.agent import NodeAgent
from nodeagent.desired import Assembler, snapshot_record
from nodeagent.journal import Journal
from nodeagent.kernel.base import Sandbox
from nodeagent.kernel.fake import FakeFabric, FakeKernel, FakeSandboxes, arrives
from nodeagent.report import NodeFacts, Reports
from nodeagent.slots import Slots
from nodeagent.sync import Synchroniser
from nodeagent.threads import Inline
from podwire.errors import NotFound, PodwireError, Unavailable
from podwire.model.cluster import parse_cluster
from podwire.seams import SeededRng
from tests.sim.means import FakeLives, LoopClock, MemoryDisk

T = TypeVar("T")

PATIENCE_S = 120.0


class Wire:
    """One direction of a stream: in order, each message after a delay of the seed's; nothing arrives while the node is cut off."""

    def __init__(self, world: World, node: str) -> None:
        self._world = world
        self._node = node
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._broken = False

    async def put(self, message: Any) -> None:
        if self._broken:
            raise Unavailable("the stream broke")
        await self._queue.put(message)

    async def get(self) -> Any:
        message = await self._queue.get()
        await self._world.clock.sleep(self._world.rng.uniform(0.0001, 0.02))
        while self._node in self._world.cut:
            await self._world.clock.sleep(0.1)
        if message is None:
            self._queue.put_nowait(None)
            if self._broken:
                raise Unavailable("the stream broke")
        return message

    def close(self, *, broken: bool = False) -> None:
        self._broken = self._broken or broken
        self._queue.put_nowait(None)


@dataclass(slots=True)
class End:
    """One end of a stream: fulfils the transports of both sides."""

    out: Wire
    into: Wire

    async def send(self, message: Any) -> None:
        await self.out.put(message)

    async def receive(self) -> Any:
        return await self.into.get()

    async def close(self) -> None:
        self.out.close()
        self.into.close(broken=True)


class Connector:
    """Opens streams from one node to whichever controller lives."""

    def __init__(self, world: World, node: str) -> None:
        self._world = world
        self._node = node

    async def connect(self) -> End:
        world = self._world
        if world.controller is None or self._node in world.cut:
            raise Unavailable("nobody answers")
        up, down = Wire(world, self._node), Wire(world, self._node)
        world.serve(self._node, End(out=down, into=up))
        return End(out=up, into=down)


@dataclass(slots=True)
class SimNode:
    """A node: what survives its agent (kernel, sandboxes, disk, containers), and the agent when it lives."""

    name: str
    kernel: FakeKernel
    sandboxes: FakeSandboxes
    disk: MemoryDisk = field(default_factory=MemoryDisk)
    running: dict[str, Sandbox] = field(default_factory=dict)
    boots: int = 0
    agent: NodeAgent | None = None
    assembler: Assembler | None = None
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class World:
    """See the module's docstring. Use `simulate` to run a scenario in it."""

    def __init__(self, seed: int, nodes: int = 3) -> None:
        self.rng = SeededRng(seed)
        self.clock = LoopClock()
        self.names = [chr(ord("a") + number) for number in range(nodes)]
        document = {
            "apiVersion": "podwire.dev/v1alpha1",
            "kind": "Cluster",
            "metadata": {"name": "sim"},
            "spec": {"nodes": [{"name": name} for name in self.names], "podCIDR": "10.244.0.0/16"},
        }
        self.settings = Settings(parse_cluster(document), recovery=RecoverySettings(quiet_s=1.0, deadline_s=5.0))
        self.image: Image | None = None
        self.controller: Controller | None = None
        self.fabric = FakeFabric()
        self.nodes: dict[str, SimNode] = {}
        self.cut: set[str] = set()
        self.revived = 0
        self._sessions: set[asyncio.Task[None]] = set()
        for number, name in enumerate(self.names):
            kernel = FakeKernel(self.fabric, ipaddress.ip_address(f"172.31.0.{number + 2}"))
            self.nodes[name] = SimNode(name, kernel, FakeSandboxes(kernel))

    # --- processes -------------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Brings everything up."""
        await self.start_controller()
        for name in self.names:
            self.start_agent(name)
        await self.until(self._nodes_ready, "all nodes are ready")

    async def _nodes_ready(self) -> bool:
        assert self.controller is not None
        await self._revive()
        nodes, _ = await self.controller.registry.list("nodes")
        return sum(ready(node) for node in nodes) == len(self.names)

    async def start_controller(self) -> None:
        """A controller over the store as it is on disk."""
        store = MemoryStore(self.rng, image=self.image)
        self.image = store.image
        self.controller = Controller(store, self.clock, self.rng, self.settings)
        await self.controller.start()

    async def crash_controller(self) -> None:
        """The controller is gone from one moment to the next; its streams break."""
        controller, self.controller = self.controller, None
        if controller is None:
            return
        for task in list(self._sessions):
            task.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)
        await controller.store.close()
        await controller.stop()

    def wipe_store(self) -> None:
        """The next controller finds no store."""
        self.image = None

    def serve(self, node: str, end: End) -> None:
        """A session of the controller's, as its server would run it."""
        controller = self.controller
        assert controller is not None

        async def session() -> None:
            try:
                await controller.session(node, end)
            except PodwireError:
                pass
            finally:
                end.out.close(broken=True)

        task = asyncio.ensure_future(session())
        self._sessions.add(task)
        task.add_done_callback(self._sessions.discard)

    def start_agent(self, name: str) -> None:
        """An agent over what its node holds."""
        node = self.nodes[name]
        assembler = Assembler()
        boot = f"{name}-boot-{node.boots}"
        slots = Slots(boot, self.rng)
        path = Path("/state/agent.journal")
        journal = Journal(node.disk, path, lambda: [snapshot_record(assembler.desired), *slots.records()])
        records = journal.open()
        assembler.load(records)
        slots.load(records)
        lives = FakeLives(node.running, lambda uid: synchroniser.note_changed([uid]), self.clock)
        agent = NodeAgent(
            kernel=node.kernel,
            sandboxes=node.sandboxes,
            lives=lives,
            threads=Inline(),
            assembler=assembler,
            slots=slots,
            journal=journal,
            clock=self.clock,
            warm_sandboxes=2,
        )
        agent.underlay_addresses = [str(node.kernel.underlay()[1][0])]
        facts = NodeFacts(boot, 7445, "privileged", node.kernel.capabilities())
        reports = Reports(facts=facts, agent=agent, lives=lives, assembler=assembler, degraded=list)
        synchroniser = Synchroniser(
            connector=Connector(self, name),
            assembler=assembler,
            journal=journal,
            reporter=reports,
            clock=self.clock,
            rng=self.rng,
            on_desired=lambda _: agent.planned(),
        )
        agent.on_report.append(synchroniser)
        node.agent, node.assembler = agent, assembler
        node.tasks = [asyncio.ensure_future(agent.run()), asyncio.ensure_future(synchroniser.run())]

    async def crash_agent(self, name: str) -> None:
        """The agent is gone; kernel, containers and disk stay."""
        node = self.nodes[name]
        for task in node.tasks:
            task.cancel()
        if node.tasks:
            await asyncio.wait(node.tasks)
        for task in node.tasks:
            if not task.cancelled():
                task.exception()  # taken note of: a crash at a failpoint is one
        node.agent, node.assembler, node.tasks = None, None, []

    async def reboot(self, name: str) -> None:
        """The node's container starts anew: only its disk is left."""
        await self.crash_agent(name)
        node = self.nodes[name]
        node.kernel.reboot()
        node.running.clear()
        node.boots += 1
        self.start_agent(name)

    # --- what users do -----------------------------------------------------------------------------------------------------------------

    async def create(self, name: str, node: str = "") -> None:
        """Makes a pod."""
        assert self.controller is not None
        spec: dict[str, Any] = {
            "containers": [{"name": "c", "image": "podwire/shell"}],
            "terminationGracePeriodSeconds": 0,
        }
        if node:
            spec["nodeName"] = node
        await self.controller.registry.create(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        )

    async def delete(self, name: str) -> None:
        """Deletes a pod; one that is not there is no error."""
        assert self.controller is not None
        try:
            await self.controller.registry.delete("pods", "default", name)
        except NotFound:
            return

    async def pods(self) -> dict[str, dict[str, Any]]:
        """All pods by name."""
        assert self.controller is not None
        docs, _ = await self.controller.registry.list("pods")
        return {doc["metadata"]["name"]: doc for doc in docs}

    # --- waiting and checking -----------------------------------------------------------------------------------------------------------

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Lets time pass until the condition holds; fails after two virtual minutes."""
        deadline = self.clock.monotonic() + PATIENCE_S
        while not await condition():
            assert self.clock.monotonic() < deadline, f"not within {PATIENCE_S:.0f} s: {what}"
            await self.clock.sleep(0.05)

    async def settle(self) -> None:
        """Heals every cut, restarts what is down, and waits until store and kernels agree."""
        self.cut.clear()
        if self.controller is None:
            await self.start_controller()
        for node in self.nodes.values():
            if node.agent is None:
                self.start_agent(node.name)
        await self.until(self._agree, "store and kernels agree")

    async def _revive(self) -> None:
        """What the supervisor does: an agent whose tasks ended is started anew."""
        for node in self.nodes.values():
            if any(task.done() for task in node.tasks):
                self.revived += 1
                await self.crash_agent(node.name)
                self.start_agent(node.name)

    async def _agree(self) -> bool:
        await self._revive()
        pods = await self.pods()
        if any(not ready(pod) for pod in pods.values()):
            return False
        wanted = {pod["metadata"]["uid"] for pod in pods.values()}
        for node in self.nodes.values():
            if node.assembler is None or not node.assembler.live or node.agent is None or node.agent.reading is None:
                return False
            here = {port.link.uid for port in node.kernel.ports.values()}
            if here - wanted or node.running.keys() - wanted:
                return False
        return all(not self.unreachable(pod, other) for pod in pods.values() for other in pods.values())

    def sandbox(self, pod: dict[str, Any]) -> tuple[SimNode, Sandbox] | None:
        """Where a pod is."""
        node = self.nodes[pod["spec"]["nodeName"]]
        sandbox = node.running.get(pod["metadata"]["uid"])
        return (node, sandbox) if sandbox is not None else None

    def unreachable(self, pod: dict[str, Any], other: dict[str, Any]) -> str:
        """Why a packet from one pod does not reach the other as from itself; empty when it does."""
        place = self.sandbox(pod)
        if place is None:
            return "it does not run"
        arrival = arrives(place[0].kernel, place[1], ipaddress.ip_address(other["status"]["podIP"]))
        if not arrival.arrived:
            return f"lost at {arrival.place}: {arrival.reason}"
        return "" if str(arrival.seen) == pod["status"]["podIP"] else f"seen as {arrival.seen}"

    def check_addresses(self) -> None:
        """At any instant: no address is in two sandboxes."""
        seen: dict[str, str] = {}
        for node in self.nodes.values():
            for slot, end in node.kernel.ends.items():
                for interface in end.addresses:
                    assert str(interface.ip) not in seen, (
                        f"{interface.ip} is in {slot} and in {seen[str(interface.ip)]}"
                    )
                    seen[str(interface.ip)] = slot

    async def check(self) -> None:
        """Once settled: allocations, kernels and containers say the same, and nothing else is there."""
        self.check_addresses()
        pods = await self.pods()
        uids = {pod["metadata"]["uid"] for pod in pods.values()}
        for node in self.nodes.values():
            assert {port.link.uid for port in node.kernel.ports.values()} <= uids
            assert node.running.keys() <= uids
            assert not node.kernel.stray
        assert self.controller is not None
        entries, _ = await self.controller.store.list("/allocations/")
        owned = [entry.value for entry in entries if any(uid.encode() in entry.value for uid in uids)]
        assert len(owned) == len(pods), "every pod has exactly one address"

    async def close(self) -> None:
        """Ends everything."""
        for name in self.names:
            await self.crash_agent(name)
        await self.crash_controller()


def ready(doc: dict[str, Any]) -> bool:
    """Whether a pod's or a node's Ready condition is true, and it is to stay."""
    if doc["metadata"].get("deletionTimestamp"):
        return False
    conditions: Iterable[dict[str, Any]] = doc.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)


def simulate(seed: int, scenario: Callable[[World], Coroutine[Any, Any, T]], nodes: int = 3) -> T:
    """Runs a scenario in virtual time, from a world that is up to one that is gone."""

    async def run() -> T:
        world = World(seed, nodes)
        await world.start()
        try:
            return await scenario(world)
        finally:
            await world.close()

    loop = looptime.new_event_loop()
    try:
        return loop.run_until_complete(run())
    finally:
        loop.close()
