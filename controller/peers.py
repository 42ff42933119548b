"""Who meshes with whom: every node with a pod CIDR and a known underlay address is every other's peer.

In: nodes. Out: the peers of the mesh, sorted by name. Pure. The VTEP's MAC is a function of (cluster, node), so that a peer can be
programmed before its node has ever been heard.
"""

from __future__ import annotations

from collections.abc import Iterable

from controller.views import NodeView
from podwire.api.v1 import state_pb2 as state
from podwire.model.names import vtep_mac


def mesh(cluster: str, nodes: Iterable[NodeView]) -> list[state.Peer]:
    """The peers of a cluster. A node that fell silent stays: its pods do too."""
    return [
        state.Peer(
            node=node.metadata.name,
            underlay_addresses=node.underlay_addresses,
            pod_cidrs=node.spec.pod_cidrs,
            vtep_mac=vtep_mac(cluster, node.metadata.name),
        )
        for node in sorted(nodes, key=lambda node: node.metadata.name)
        if node.spec.pod_cidrs and node.underlay_addresses
    ]
