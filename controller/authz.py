"""Who may call what on the controller. A call that is not in this table is refused, and a test fails until it is.

In: nothing. Out: the table that `podwire.rpc.server` checks. What a permitted caller may touch (a node: its own things only) is
decided by the service, from `peer_identity()`.
"""

from __future__ import annotations

from podwire.identity import Role
from podwire.rpc import Table

_USERS = frozenset({Role.ADMIN, Role.USER})
_NODES = frozenset({Role.NODE})
_EVERYBODY = frozenset(Role)

TABLE: Table = {
    "/podwire.api.v1.ControlService/Apply": _USERS,
    "/podwire.api.v1.ControlService/Create": _USERS,
    "/podwire.api.v1.ControlService/Get": _USERS,
    "/podwire.api.v1.ControlService/List": _USERS,
    "/podwire.api.v1.ControlService/Watch": _USERS,
    "/podwire.api.v1.ControlService/Patch": _USERS,
    "/podwire.api.v1.ControlService/Delete": _USERS,
    "/podwire.api.v1.ControlService/CreateJoinToken": _USERS,
    "/podwire.api.v1.ControlService/Status": _USERS,
    "/podwire.api.v1.ControlService/Exec": _USERS,
    "/podwire.api.v1.ControlService/Logs": _USERS,
    "/podwire.api.v1.ControlService/Probe": _USERS,
    "/podwire.api.v1.ControlService/Inspect": _USERS,
    "/podwire.api.v1.NodeSyncService/Sync": _NODES,
    "/podwire.api.v1.NodeSyncService/RenewCertificate": _NODES,
    "/podwire.api.v1.JoinService/Join": _EVERYBODY,  # the token in the request is what counts
    "/grpc.health.v1.Health/Check": _EVERYBODY,
    "/grpc.health.v1.Health/Watch": _USERS | _NODES,  # a stream held open: not for strangers
}
