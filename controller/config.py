"""Settings of the controller, frozen at start. Everything has a default; the driver gives the paths and addresses."""

from __future__ import annotations

from dataclasses import dataclass, field

from controller.ipam import DEFAULT_COOLDOWN_S
from controller.nodeloss import DEFAULT_TIMEOUT_S, DEFAULT_TOLERATION_S
from podwire.model.cluster import ClusterSpec

SYNC_PORT = 7443
JOIN_PORT = 7444
AGENT_PORT = 7445
SOCKET = "control.sock"  # in the state directory, unless a flag says otherwise
CLUSTER_FILE = "cluster.json"  # likewise


@dataclass(frozen=True, slots=True)
class SyncSettings:
    """How agents are spoken to."""

    heartbeat_s: float = 5.0
    hello_timeout_s: float = 10.0
    chunk_bytes: int = 512 * 1024
    window: int = 2
    """Messages that may be on their way unacknowledged; while it is full, changes gather into the next one."""
    ack_timeout_s: float = 2.0
    """A slow agent gets the next message after this long all the same: stopping a pod may take its whole grace period."""


@dataclass(frozen=True, slots=True)
class RecoverySettings:
    """How long to wait for agents that know another store, before going on with what the others said."""

    quiet_s: float = 1.0
    deadline_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Settings:
    """All of them."""

    cluster: ClusterSpec
    sync: SyncSettings = field(default_factory=SyncSettings)
    recovery: RecoverySettings = field(default_factory=RecoverySettings)
    node_timeout_s: float = DEFAULT_TIMEOUT_S
    node_toleration_s: float = DEFAULT_TOLERATION_S
    node_tick_s: float = 5.0
    address_cooldown_s: float = DEFAULT_COOLDOWN_S
    event_flush_s: float = 0.5
    events_kept: int = 2000
