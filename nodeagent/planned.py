"""What the plan means for this node's kernel, worked out once: the loop asks at every turn, and a plan of hundreds of pods changes by a few.

In: the desired state and the underlay. Out: the same `NodeNetwork` and `PodLink` values that `diff.py` makes of them; the same object as
before where neither the plan nor the slot changed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from nodeagent.desired import Desired
from nodeagent.diff import node_network, pod_link
from nodeagent.kernel.base import NodeNetwork, PodLink
from podwire.api.v1 import state_pb2 as state
from podwire.model.addresses import IPAddress

Underlay = tuple[str, IPAddress, int]  # link, address, MTU


class Planned:
    """Remembers what it worked out last, and from what."""

    def __init__(self) -> None:
        self._network: tuple[state.ClusterState, state.NodeConfig, Underlay, NodeNetwork] | None = None
        self._links: dict[str, tuple[NodeNetwork, state.PodState, PodLink]] = {}

    def network(self, desired: Desired, underlay: Underlay) -> NodeNetwork:
        """The node's network."""
        last = self._network
        if last is None or last[0] is not desired.cluster or last[1] is not desired.node or last[2] != underlay:
            link, address, mtu = underlay
            made = node_network(desired.cluster, desired.node, link=link, underlay=address, underlay_mtu=mtu)
            if last is not None and last[3] == made:
                made = last[3]
            last = self._network = (desired.cluster, desired.node, underlay, made)
        return last[3]

    def links(
        self, network: NodeNetwork, pods: Mapping[str, state.PodState], slots: Mapping[str, str]
    ) -> dict[str, PodLink]:
        """The wiring of the pods that have a slot."""
        links = {uid: self._link(network, pods[uid], slot) for uid, slot in slots.items()}
        if len(self._links) > 2 * len(links):
            self._keep(links.keys())
        return links

    def _link(self, network: NodeNetwork, pod: state.PodState, slot: str) -> PodLink:
        last = self._links.get(pod.uid)
        if last is None or last[0] is not network or last[1] is not pod or last[2].slot != slot:
            last = self._links[pod.uid] = (network, pod, pod_link(network, pod, slot))
        return last[2]

    def _keep(self, uids: Collection[str]) -> None:
        self._links = {uid: known for uid, known in self._links.items() if uid in uids}
