"""The whole controller in one process, with agents that follow a script and a clock that stands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from controller.config import Settings
from controller.controller import Controller
from controller.ipam import ADDRESSES, CIDRS
from controller.store.ledger import Image
from controller.store.memory import MemoryStore
from podwire.api.v1 import state_pb2 as state
from podwire.errors import Conflict, InvalidInput
from podwire.model.cluster import API_VERSION, parse_cluster
from podwire.seams import SeededRng
from tests.unit.scripted_agent import ScriptedAgent, running
from tests.unit.step_clock import StepClock, settle, until

Doc = dict[str, Any]


class World:
    """A controller over an image of a disk, and agents by node."""

    def __init__(self, seed: int = 1, **spec: Any) -> None:
        self.clock = StepClock()
        self.rng = SeededRng(seed)
        document = {"apiVersion": API_VERSION, "kind": "Cluster", "metadata": {"name": "demo"}, "spec": spec}
        self.settings = Settings(cluster=parse_cluster(document))
        self.image: Image | None = None
        self.agents: dict[str, ScriptedAgent] = {}
        self.controller: Controller

    async def start(self) -> None:
        store = MemoryStore(self.rng, image=self.image)
        self.image = store.image
        self.controller = Controller(store, self.clock, self.rng, self.settings)
        await self.controller.start()

    async def stop(self) -> None:
        for agent in self.agents.values():
            await agent.disconnect()
        await self.controller.stop()
        await self.controller.store.close()

    async def restart(self, *, wiped: bool = False) -> None:
        """Another controller over the same disk, or over an empty one."""
        await self.stop()
        if wiped:
            self.image = None
        await self.start()

    def connect(self, *names: str) -> None:
        for number, name in enumerate(names, start=1):
            agent = self.agents.setdefault(name, ScriptedAgent(name, f"172.30.0.{number}"))
            agent.connect(self.controller)

    async def ready(self, *names: str) -> None:
        self.connect(*names)
        for name in names:
            await self.until(lambda name=name: self.node_ready(name), f"{name} ready")  # type: ignore[misc]

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        await until(condition, what)

    def node_ready(self, name: str) -> bool:
        node = self.controller.snapshot.nodes.get(name)
        return node is not None and node.view.ready

    async def run(self, *names: str, **spec: Any) -> None:
        docs = [pod(name, **spec) for name in names]
        await self.controller.registry.apply(docs)

    def pod(self, name: str) -> Doc:
        found = self.controller.snapshot.named_pod("default", name)
        assert found is not None
        return found.doc

    def phase(self, name: str) -> str:
        found = self.controller.snapshot.named_pod("default", name)
        return found.doc["status"]["phase"] if found else "gone"

    def says(self, name: str) -> str:
        """The message of a pod's first condition."""
        found = self.controller.snapshot.named_pod("default", name)
        conditions = found.doc["status"].get("conditions", [{}]) if found else [{}]
        return str(conditions[0].get("message", ""))

    def allocated(self) -> dict[str, str]:
        """Address → owner's UID."""
        return {
            value: held.allocation.owner
            for (pool, value), held in self.controller.snapshot.held.items()
            if pool == ADDRESSES
        }

    async def reasons(self) -> list[str]:
        await self.clock.advance(1)
        events, _ = await self.controller.registry.list("events")
        return sorted(event["reason"] for event in events)


def pod(name: str, **spec: Any) -> Doc:
    containers = [{"name": "c", "image": "agnhost", "args": ["netexec"]}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": containers, **spec}}


@asynccontextmanager
async def world(**spec: Any) -> AsyncIterator[World]:
    made = World(**spec)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def test_nodes_register_themselves() -> None:
    """The first word of a certified agent makes its Node, with labels, addresses and a range of its own."""
    async with world(nodes=[{"name": "a", "zone": "z1"}, {"name": "b"}]) as it:
        await it.ready("a", "b")
        node = it.controller.snapshot.nodes["a"].doc
        assert node["metadata"]["labels"] == {
            "kubernetes.io/hostname": "a",
            "kubernetes.io/os": "linux",
            "topology.kubernetes.io/zone": "z1",
        }
        assert node["spec"] == {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]}
        assert {"type": "InternalIP", "address": "172.30.0.1"} in node["status"]["addresses"]
        await it.until(lambda: len(it.agents["a"].cluster.peers) == 2, "the mesh at a")
        assert [peer.node for peer in it.agents["a"].cluster.peers] == ["a", "b"]
        assert it.agents["a"].cluster == it.agents["b"].cluster


async def test_pods_run() -> None:
    """Spread over the nodes, with addresses of their ranges, and a status in Kubernetes' words."""
    async with world() as it:
        await it.ready("node-1", "node-2")
        await it.run("p1", "p2", "p3", "p4")
        for name in ("p1", "p2", "p3", "p4"):
            await it.until(lambda name=name: it.phase(name) == "Running", f"{name} running")  # type: ignore[misc]
        assert {name: len(agent.pods) for name, agent in it.agents.items()} == {"node-1": 2, "node-2": 2}
        doc = it.pod("p1")
        assert doc["spec"]["nodeName"] == "node-1"
        assert doc["status"]["podIP"] == "10.244.0.2"
        assert doc["status"]["hostIP"] == "172.30.0.1"
        conditions = {each["type"]: each["status"] for each in doc["status"]["conditions"]}
        assert conditions == {"PodScheduled": "True", "Initialized": "True", "ContainersReady": "True", "Ready": "True"}
        assert doc["status"]["containerStatuses"][0]["state"] == {"running": {"startedAt": "1970-01-01T00:16:40Z"}}
        assert "Scheduled" in await it.reasons()


async def test_dual_stack() -> None:
    """A v6 range gives every pod a second address."""
    async with world(podCIDRv6="fd00:10::/56") as it:
        await it.ready("node-1")
        await it.run("p")
        await it.until(lambda: it.phase("p") == "Running", "running")
        assert it.pod("p")["status"]["podIPs"] == [{"ip": "10.244.0.2"}, {"ip": "fd00:10::2"}]


async def test_stand_ins_are_marked() -> None:
    """An image that is not built in says so in a condition."""
    async with world() as it:
        await it.ready("node-1")
        await it.run("p", containers=[{"name": "web", "image": "nginx"}])
        await it.until(lambda: it.phase("p") == "Running", "running")
        marks = [each for each in it.pod("p")["status"]["conditions"] if each["type"] == "podwire.dev/StandIn"]
        assert marks[0]["status"] == "True"
        assert "web" in marks[0]["message"]


async def test_deletion_waits_for_the_agent_and_the_address_rests() -> None:
    """The object goes when the agent holds nothing any more; the address is given again a minute later, after all others."""
    async with world(podCIDR="10.0.0.0/29", nodes=1, nodeCIDRMask=29) as it:
        await it.ready("node-1")
        it.agents["node-1"].stops_pods = False
        await it.run("p1")
        await it.until(lambda: it.phase("p1") == "Running", "p1 running")
        uid = it.pod("p1")["metadata"]["uid"]
        await it.controller.registry.delete("pods", "default", "p1")
        await it.until(lambda: it.agents["node-1"].pods[uid].terminating, "told to stop")
        await it.clock.advance(5)
        assert it.allocated() == {"10.0.0.2": uid}
        it.agents["node-1"].report(state.NodeReport(removed_uids=[uid]))
        await it.until(lambda: it.phase("p1") == "gone", "gone")
        assert it.allocated() == {}
        await it.run("q1", "q2", "q3", "q4", "q5")
        await it.until(lambda: len(it.allocated()) == 4, "four found room")
        assert "10.0.0.2" not in it.allocated()
        assert await it.reasons() == ["AddressesExhausted", "Registered", *["Scheduled"] * 5]
        await it.clock.advance(61)
        await it.until(lambda: "10.0.0.2" in it.allocated(), "rested")


async def test_forced_deletion_keeps_the_address_until_confirmed() -> None:
    """The object may be gone at once; what it stood for may not."""
    async with world() as it:
        await it.ready("node-1")
        agent = it.agents["node-1"]
        await it.run("p")
        await it.until(lambda: it.phase("p") == "Running", "running")
        agent.acknowledges = False
        await it.controller.registry.delete("pods", "default", "p", grace_s=0)
        await it.until(lambda: not agent.pods, "the agent knows")
        assert list(it.allocated()) == ["10.244.0.2"]
        uid = it.allocated()["10.244.0.2"]
        agent.report(state.NodeReport(removed_uids=[uid]))
        await it.until(lambda: not it.allocated(), "released")


async def test_a_confirmation_lost_in_a_crash_is_found_in_the_inventory() -> None:
    """What an agent does not hold at Hello, and was to go, is gone."""
    async with world() as it:
        await it.ready("node-1")
        it.agents["node-1"].stops_pods = False
        await it.run("p")
        await it.until(lambda: it.phase("p") == "Running", "running")
        await it.controller.registry.delete("pods", "default", "p")
        await it.until(lambda: all(each.terminating for each in it.agents["node-1"].pods.values()), "told")
        await it.restart()
        it.agents["node-1"].pods.clear()
        it.connect("node-1")
        await it.until(lambda: it.phase("p") == "gone" and not it.allocated(), "gone")


async def test_a_node_speaks_for_its_own_pods_only() -> None:
    """Reports and confirmations about another node's pods change nothing."""
    async with world() as it:
        await it.ready("node-1", "node-2")
        await it.run("p", nodeName="node-1")
        await it.until(lambda: it.phase("p") == "Running", "running")
        theirs = next(iter(it.agents["node-1"].pods.values()))
        failed = running(theirs, ready=False)
        failed.phase = state.POD_PHASE_FAILED
        it.agents["node-2"].report(state.NodeReport(pods=[failed], removed_uids=[theirs.uid]))
        await settle(200)
        assert it.phase("p") == "Running"
        assert it.allocated() == {"10.244.0.2": theirs.uid}


async def test_unplaceable_pods_wait_and_say_why() -> None:
    """No node, a node that is not there: both are a status, an event, and no failure."""
    async with world() as it:
        await it.run("p", nodeName="node-9")
        await it.run("q")
        for name in ("p", "q"):
            await it.until(lambda name=name: it.says(name) != "", f"{name} says why")  # type: ignore[misc]
        assert it.says("p") == "node node-9 does not exist"
        assert it.says("q") == "0/0 nodes are available"
        assert await it.reasons() == ["FailedScheduling", "FailedScheduling"]
        await it.ready("node-9")
        for name in ("p", "q"):
            await it.until(lambda name=name: it.phase(name) == "Running", f"{name} runs")  # type: ignore[misc]


async def test_restart_tells_agents_nothing_new() -> None:
    """Another controller over the same store plans the very same."""
    async with world() as it:
        await it.ready("node-1")
        await it.run("p1", "p2")
        await it.until(lambda: it.phase("p1") == it.phase("p2") == "Running", "running")
        await settle(200)
        before = {uid: pod.SerializeToString(deterministic=True) for uid, pod in it.agents["node-1"].pods.items()}
        versions = [it.pod(name)["metadata"].get("resourceVersion") for name in ("p1", "p2")]
        await it.restart()
        await it.ready("node-1")
        await settle(200)
        after = {uid: pod.SerializeToString(deterministic=True) for uid, pod in it.agents["node-1"].pods.items()}
        assert before == after
        assert versions == [it.pod(name)["metadata"].get("resourceVersion") for name in ("p1", "p2")]
        assert it.agents["node-1"].epoch == 2


async def test_a_wiped_store_is_rebuilt() -> None:
    """Agents keep their pods, everybody keeps its address, the revision goes on above all that were seen, and nobody is told
    of a mesh without the others.
    """
    async with world() as it:
        await it.ready("node-1", "node-2", "node-3")
        await it.controller.registry.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
        await it.run("p1", "p2", "p3", "p4")
        await it.controller.registry.create(pod("s"), namespace="shop")
        await it.until(lambda: sum(len(agent.pods) for agent in it.agents.values()) == 5, "planned")
        await it.until(lambda: all(it.phase(f"p{n}") == "Running" for n in (1, 2, 3, 4)), "running")
        await settle(200)
        pods = {name: sorted(agent.pods) for name, agent in it.agents.items()}
        ranges = {name: agent.pod_cidrs for name, agent in it.agents.items()}
        allocated, seen = it.allocated(), max(agent.revision for agent in it.agents.values())
        store = it.controller.store.store_id
        await it.restart(wiped=True)
        for agent in it.agents.values():
            agent.messages.clear()
        it.connect("node-1", "node-2")
        await it.clock.advance(1.5)
        first = it.agents["node-1"].messages
        assert [message.WhichOneof("message") for message in first] == ["welcome"]
        assert not first[0].welcome.adopt_store
        it.connect("node-1", "node-2", "node-3")
        await it.clock.advance(1.5)
        await it.until(lambda: all(agent.store_id != store for agent in it.agents.values()), "adopted")
        await it.until(lambda: it.phase("p1") == "Running", "reported again")
        assert {name: sorted(agent.pods) for name, agent in it.agents.items()} == pods
        assert {name: agent.pod_cidrs for name, agent in it.agents.items()} == ranges
        assert it.allocated() == allocated
        assert min(agent.revision for agent in it.agents.values()) > seen
        for agent in it.agents.values():
            peers = [
                len(state.ClusterState.FromString(message.chunk.cluster).peers)
                for message in agent.messages
                if message.WhichOneof("message") == "chunk" and message.chunk.cluster
            ]
            assert peers == [3]
        await it.run("new")
        await it.until(lambda: it.phase("new") == "Running", "and new pods find free addresses")
        assert len(it.allocated()) == 6


async def test_recovery_does_not_wait_for_ever() -> None:
    """A node that never comes holds the others up until the deadline only; when it comes late it is taken in with what it has."""
    async with world(nodes=2) as it:
        await it.ready("node-1", "node-2")
        await it.run("p1", "p2")
        await it.until(lambda: it.phase("p1") == it.phase("p2") == "Running", "running")
        allocated = it.allocated()
        await it.restart(wiped=True)
        it.connect("node-1")
        await it.clock.advance(19)
        assert not it.controller.snapshot.nodes
        await it.clock.advance(3)
        await it.until(lambda: it.node_ready("node-1"), "went on without")
        await it.clock.advance(1)
        agent = it.agents["node-2"]
        agent.connect(it.controller)
        await it.until(lambda: it.node_ready("node-2"), "taken in")
        assert it.allocated() == allocated
        assert not agent.error


async def test_a_range_that_is_taken_is_not_taken_over() -> None:
    """An agent of a wiped store whose range went to another meanwhile is refused, and keeps what it has."""
    async with world(nodes=1) as it:
        await it.ready("node-1")
        await it.restart(wiped=True)
        await it.ready("fresh")
        agent = it.agents["node-1"]
        agent.connect(it.controller)
        await it.until(lambda: agent.error is not None, "refused")
        assert isinstance(agent.error, Conflict)
        assert agent.pod_cidrs == ["10.244.0.0/24"]


async def test_silence_makes_a_node_not_ready() -> None:
    """Its pods stay, are not ready, and are again when it speaks."""
    async with world() as it:
        await it.ready("node-1", "node-2")
        await it.run("p1", "p2")
        await it.until(lambda: it.phase("p1") == it.phase("p2") == "Running", "running")
        await it.agents["node-2"].disconnect()
        await it.clock.advance(50)
        assert it.node_ready("node-1")
        assert not it.node_ready("node-2")
        ready = {each["type"]: each for each in it.pod("p2")["status"]["conditions"]}["Ready"]
        assert (ready["status"], ready["reason"]) == ("False", "NodeNotReady")
        assert len(it.allocated()) == 2
        agent = it.agents["node-2"]
        agent.connect(it.controller)
        await it.until(lambda: it.node_ready("node-2"), "back")
        await it.until(lambda: it.pod("p2")["status"]["conditions"][3]["status"] == "True", "p2 ready again")


async def test_everybody_silent_is_the_controllers_own_fault() -> None:
    """Nobody is marked."""
    async with world() as it:
        await it.ready("node-1", "node-2")
        for agent in it.agents.values():
            await agent.disconnect()
        await it.clock.advance(300)
        assert it.node_ready("node-1")
        assert it.node_ready("node-2")


async def test_a_deleted_node_gives_everything_back() -> None:
    """Its stream is closed, its pods go, its addresses and its range rest."""
    async with world() as it:
        await it.ready("node-1", "node-2")
        await it.run("p1", "p2")
        await it.until(lambda: it.phase("p1") == it.phase("p2") == "Running", "running")
        await it.controller.registry.delete("nodes", "", "node-2")
        await it.until(lambda: it.phase("p2") == "gone", "its pod is gone")
        held = it.controller.snapshot.held
        await it.until(lambda: sorted(value for _, value in held) == ["10.244.0.0/24", "10.244.0.2"], "freed")
        await it.until(lambda: it.agents["node-2"].error is not None, "its stream is closed")
        await it.until(lambda: len(it.agents["node-1"].cluster.peers) == 1, "and the mesh knows")
        assert (CIDRS, "10.244.1.0/24") not in held


async def test_namespaces_are_emptied() -> None:
    """Pods go through their agents, then the namespace."""
    async with world() as it:
        await it.ready("node-1")
        await it.controller.registry.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
        await it.controller.registry.create(pod("s"), namespace="shop")
        await it.until(lambda: len(it.agents["node-1"].pods) == 1, "planned")
        await it.controller.registry.delete("namespaces", "", "shop")
        for _ in range(4):
            await it.clock.advance(1)
        await it.until(lambda: "shop" not in it.controller.snapshot.namespaces, "gone")
        assert not it.allocated()


async def test_the_document_cannot_move_a_living_cluster() -> None:
    """A controller refuses to start with other ranges than its nodes use."""
    async with world() as it:
        await it.stop()
        other = World(podCIDR="10.0.0.0/16")
        other.image = it.image
        with pytest.raises(InvalidInput, match=r"spec\.podCIDR: cannot be changed"):
            await other.start()
        await it.start()


async def test_many_pods_travel_together() -> None:
    """A burst reaches an agent in a few messages, not in one per pod."""
    async with world(nodes=3) as it:
        await it.ready("node-1", "node-2", "node-3")
        for agent in it.agents.values():
            agent.messages.clear()
        await it.run(*(f"p{number}" for number in range(200)))
        await it.until(lambda: sum(len(agent.pods) for agent in it.agents.values()) == 200, "planned")
        for agent in it.agents.values():
            deltas = [message for message in agent.messages if message.WhichOneof("message") == "delta"]
            assert len(deltas) <= 3
        assert len(set(it.allocated())) == 200
        await asyncio.gather(*(it.controller.registry.delete("pods", "default", f"p{number}") for number in range(200)))
        await it.until(lambda: not it.controller.snapshot.pods and not it.allocated(), "gone")
