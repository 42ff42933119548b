"""The agent's settings, from flags: where its durable and its passing files are. Everything else it learns by joining."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

AGENT_PORT = 7445  # NodeAgentService, on the underlay address
RESYNC_S = 5.0  # the kernel is read whole at least this often: drift is mended within two of these
LOOK_AGAIN_S = 0.5  # after a hint of drift, a reading is at most this late
ENDS_EVERY_S = 5.0  # and the insides of sandboxes at least this often
RETRY_S = 0.1  # first retry after a failure; doubles up to RESYNC_S
WARM_SANDBOXES = 8  # made ahead while idle
WARM_AFTER_S = 0.5  # idle is who has had nothing to do for this long
SILENCE_FACTOR = 3  # heartbeats missed before the stream is taken for dead


@dataclass(frozen=True, slots=True)
class Settings:
    """What the agent is started with."""

    state_dir: Path
    run_dir: Path
    warm_sandboxes: int = WARM_SANDBOXES
    agent_port: int = AGENT_PORT

    @property
    def journal(self) -> Path:
        """The agent's durable log."""
        return self.state_dir / "agent.journal"

    @property
    def ready_file(self) -> Path:
        """Exists while the agent has applied a whole plan; health checks look at it."""
        return self.run_dir / "ready"


def parse(argv: Sequence[str]) -> Settings:
    """Reads the flags; a wrong one ends the process with exit code 2 and a usage line."""
    parser = argparse.ArgumentParser(prog="podwire-agent", description="podwire's node agent")
    parser.add_argument("--state-dir", type=Path, required=True, help="durable files: certificate, journal, pods")
    parser.add_argument(
        "--run-dir", type=Path, required=True, help="files of this start of the node: sockets, sandboxes"
    )
    parser.add_argument(
        "--warm-sandboxes", type=int, default=WARM_SANDBOXES, help="sandboxes to make ahead (default: %(default)s)"
    )
    parser.add_argument(
        "--agent-port",
        type=int,
        default=AGENT_PORT,
        help="where the agent listens on its underlay address (default: %(default)s)",
    )
    values = parser.parse_args(argv)
    return Settings(values.state_dir, values.run_dir, values.warm_sandboxes, values.agent_port)
