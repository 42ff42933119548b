"""Where a local cluster's files are, and the addresses of its underlay: everything below one directory, so `down` removes one.

In: a cluster's directory and its underlay CIDR. Out: paths and addresses. Pure. Inside a node, whatever the host's paths are, the
run directory and the state directory are always the two below: a tmpfs that ends with the node, and a bind mount of `nodes/NAME`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from podwire.errors import InvalidInput
from podwire.model.addresses import IPAddress, IPInterface, IPNetwork, overlaps

NODE_RUN_DIR = "/run/podwire"
NODE_STATE_DIR = "/run/podwire-state"
CONTROLLER_PORT = 7443
JOIN_PORT = 7444
SOCKET_PATH_LIMIT = 107  # bytes in sockaddr_un, without the final zero

# The underlay exists in the cluster's own network namespace only, so it may be anything that the cluster itself does not use.
UNDERLAY_CANDIDATES = ("198.18.0.0/16", "172.31.0.0/16", "100.127.0.0/16")


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths of one cluster."""

    root: Path

    @property
    def supervisor_file(self) -> Path:
        """PID and start time of the supervisor."""
        return self.root / "supervisor.json"

    @property
    def control_socket(self) -> Path:
        """Where the supervisor takes commands."""
        return self.root / "supervisor.sock"

    @property
    def controller_socket(self) -> Path:
        """Where the controller answers users."""
        return self.root / "controller.sock"

    @property
    def controller_state(self) -> Path:
        """The controller's durable files."""
        return self.root / "controller"

    @property
    def cluster_file(self) -> Path:
        """The Cluster document with every default written out."""
        return self.root / "cluster.json"

    @property
    def members_file(self) -> Path:
        """The nodes there are, and the number each was given: its address stays over restarts."""
        return self.root / "members.json"

    @property
    def logs(self) -> Path:
        """Logs of the supervisor and the controller; a node's are in its own directory."""
        return self.root / "logs"

    def node(self, name: str) -> Path:
        """A node's durable files."""
        return self.root / "nodes" / name

    def processes_file(self, name: str) -> Path:
        """PIDs of a node's processes, as this machine sees them."""
        return self.node(name) / "processes.json"

    def check(self) -> None:
        """Raises InvalidInput where a socket's path would not fit into the kernel's limit."""
        length = len(str(self.controller_socket).encode())
        if length > SOCKET_PATH_LIMIT:
            raise InvalidInput(
                f"the state directory {self.root} is too long for Unix sockets ({length} of {SOCKET_PATH_LIMIT} bytes)",
                hint="set XDG_STATE_HOME to a shorter path",
            )


def choose_underlay(wanted: IPNetwork | None, taken: tuple[IPNetwork, ...]) -> IPNetwork:
    """The underlay's CIDR: the one asked for, or the first candidate that no range of the cluster overlaps."""
    if wanted is not None:
        return wanted
    candidates = [ipaddress.ip_network(candidate) for candidate in UNDERLAY_CANDIDATES]
    for candidate in candidates:
        if not any(overlaps(candidate, other) for other in taken):
            return candidate
    raise InvalidInput("the cluster's ranges overlap every underlay range", hint="set spec.underlayCIDR")


def controller_address(underlay: IPNetwork) -> IPInterface:
    """The fabric bridge's address: the controller listens there."""
    return _interface(underlay, 1)


def node_address(underlay: IPNetwork, number: int) -> IPInterface:
    """Address of the node with a number, counted from 1. Raises InvalidInput where the underlay is full."""
    if number + 1 >= underlay.num_addresses - 1:
        raise InvalidInput(
            f"the underlay {underlay} has no address for another node", hint="set a larger spec.underlayCIDR"
        )
    return _interface(underlay, number + 1)


def free_number(taken: set[int]) -> int:
    """The lowest number that no node has."""
    return next(number for number in range(1, len(taken) + 2) if number not in taken)


def _interface(underlay: IPNetwork, offset: int) -> IPInterface:
    return ipaddress.ip_interface(f"{underlay.network_address + offset}/{underlay.prefixlen}")


def controller_url(address: IPAddress, port: int) -> str:
    """`host:port`, with brackets where the family needs them."""
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
