"""News of a namespace: one descriptor that becomes readable when anything in it changes.

In: the kernel's multicast groups for links, addresses, routes, neighbours and nftables. Out: "look now", never what to do: the agent
reads the kernel and compares. Our own changes are told apart by the port of the socket that made them.
"""

from __future__ import annotations

import select
from collections.abc import Callable

from nodeagent.kernel import rtnl
from nodeagent.kernel.netlink import NETLINK_NETFILTER, NetlinkSocket

_LINK, _NEIGHBOUR, _V4_ADDRESS, _V4_ROUTE, _V6_ADDRESS, _V6_ROUTE = 1, 3, 5, 7, 9, 11  # RTNLGRP_*
_NFT = 7  # NFNLGRP_NFTABLES


class Notifications:
    """Subscribes in the calling thread's namespace; `own_ports` are those whose changes are no news."""

    def __init__(self, own_ports: Callable[[], set[int]]) -> None:
        self._route = NetlinkSocket(groups=(_LINK, _NEIGHBOUR, _V4_ADDRESS, _V4_ROUTE, _V6_ADDRESS, _V6_ROUTE))
        self._nft = NetlinkSocket(NETLINK_NETFILTER, groups=(_NFT,))
        self._own_ports = own_ports
        self._poll = select.epoll()
        for socket in (self._route, self._nft):
            self._poll.register(socket.fileno(), select.EPOLLIN)

    def fileno(self) -> int:
        """For an event loop."""
        return self._poll.fileno()

    def drain(self) -> bool:
        """Takes what has come; whether there was a change by others that is worth a look. Neighbour entries that are merely learnt or
        refreshed are not: only their removal is.
        """
        own = self._own_ports()
        worth = False
        for socket in (self._route, self._nft):
            pending = socket.receive_pending()
            if pending is None:
                worth = True
                continue
            worth = worth or any(port not in own and kind != rtnl.NEW_NEIGHBOUR for kind, port, _ in pending)
        return worth

    def close(self) -> None:
        """Closes the sockets."""
        self._poll.close()
        self._route.close()
        self._nft.close()
