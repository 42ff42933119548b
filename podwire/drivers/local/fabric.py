"""The underlay: a bridge in the cluster's own network namespace, and one link from it into each node.

In: addresses and names, in a process that is in the right namespace. Out: links that are up. The supervisor makes the bridge where it
lives, with the controller's address on it; each keeper makes its node's `eth0` from inside the node, with the other end already on
the bridge, so no device is ever moved. All of it ends with the namespaces.
"""

from __future__ import annotations

from collections.abc import Sequence

from nodeagent.kernel import rtnl, rtnl_read
from nodeagent.kernel.netlink import NetlinkSocket
from podwire.errors import KernelError
from podwire.model import names
from podwire.model.addresses import IPInterface

BRIDGE = "underlay"
NODE_LINK = "eth0"
MTU = 1500
_LOOPBACK_INDEX = 1


class Fabric:
    """The bridge, through a socket in its namespace."""

    def __init__(self) -> None:
        """Opens the socket in the calling process's namespace, and remembers that namespace's bridge once it is made."""
        self._socket = NetlinkSocket(light=True)
        self.bridge_index = 0

    def make(self, cluster: str, address: IPInterface) -> None:
        """Makes the bridge with its address; for a namespace that is new. Raises KernelError."""
        mac = names.bridge_mac(cluster, BRIDGE)
        _request(self._socket, [rtnl.create_bridge(BRIDGE, mac, MTU)], "create bridge", BRIDGE)
        self.bridge_index = _index(self._socket, BRIDGE)
        messages = [
            rtnl.set_link(self.bridge_index, rtnl.NO_ADDRESS_GENERATION),
            rtnl.add_address(self.bridge_index, address),
            rtnl.set_link(self.bridge_index, up=True),
            rtnl.set_link(_LOOPBACK_INDEX, up=True),
        ]
        _request(self._socket, messages, "configure bridge", BRIDGE)

    def drop(self, link: str) -> None:
        """Removes a node's link where it still is: a namespace that ends keeps answering for its address for a while."""
        index = _index(self._socket, link)
        if index:
            self._socket.request([rtnl.delete_link(index)])  # gone by now is as good


def attach_node(*, cluster: str, node: str, link: str, fabric: int, bridge_index: int, address: IPInterface) -> None:
    """Makes the calling namespace's `eth0`, its other end a port of the bridge in namespace `fabric` (a descriptor). Raises
    KernelError.
    """
    socket = NetlinkSocket(light=True)
    pair = rtnl.create_veth(
        host_name=link,
        host_mac=names.host_mac(cluster, node),
        pod_mac=names.pod_mac(cluster, node),
        link_mtu=MTU,
        host_group=0,
        bridge=bridge_index,
        node_netns=fabric,
    )
    try:
        _request(socket, [rtnl.set_link(_LOOPBACK_INDEX, up=True), pair], "attach node", node)
        index = _index(socket, NODE_LINK)  # not always 2: some kernels give each namespace tunnel devices of its own
        messages = [
            rtnl.set_link(index, rtnl.NO_ADDRESS_GENERATION),
            rtnl.add_address(index, address),
            rtnl.set_link(index, up=True),
        ]
        _request(socket, messages, "configure eth0 of node", node)
    finally:
        socket.close()


def _index(socket: NetlinkSocket, link: str) -> int:
    """Index of a link by name; 0 where there is none."""
    return next((found.index for found in rtnl_read.read_links(socket) if found.name == link), 0)


def _request(socket: NetlinkSocket, messages: Sequence[bytes], operation: str, obj: str) -> None:
    for refusal in socket.request(messages):
        if refusal is not None:
            error: KernelError = refusal.error(operation, obj)
            raise error
