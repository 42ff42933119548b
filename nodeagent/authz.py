"""Who may call what on a node's agent: its controller, and nobody else. A call that is not in this table is refused.

In: nothing. Out: the table that `podwire.rpc.server` checks.
"""

from __future__ import annotations

from podwire.identity import Role
from podwire.rpc import Table

_CONTROLLER = frozenset({Role.CONTROLLER})

TABLE: Table = {
    "/podwire.api.v1.NodeAgentService/Exec": _CONTROLLER,
    "/podwire.api.v1.NodeAgentService/Logs": _CONTROLLER,
    "/podwire.api.v1.NodeAgentService/Health": _CONTROLLER,
    "/podwire.api.v1.NodeAgentService/Inspect": _CONTROLLER,
    "/podwire.api.v1.NodeAgentService/Probe": _CONTROLLER,
    "/grpc.health.v1.Health/Check": _CONTROLLER,
    "/grpc.health.v1.Health/Watch": _CONTROLLER,
}
