"""Pure: what to ask of the helper so that a container or a command runs.

In: a `ContainerRun` and what of the node its programs need. Out: the strings of a `run` or `exec` request (`helper.h` says what each
means); `process.py` and `exec.py` send them. Capabilities are a container engine's default set without the power to change networks
or mounts.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nodeagent.kernel.procs import ProcessId
from nodeagent.pods.base import ContainerRun
from podwire.errors import InvalidInput

CAPABILITIES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]  # the index is the kernel's number
DEFAULT_CAPABILITIES = frozenset(
    [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
)
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHOWN_ANYWAY = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/opt", "/etc")


@dataclass(frozen=True, slots=True)
class NodePrograms:
    """What a container sees of the node beyond its system directories: the interpreter and packages behind `/agnhost`."""

    python: str
    python_path: str
    binds: tuple[str, ...]

    @classmethod
    def here(cls) -> NodePrograms:
        """Those of the running interpreter, wherever its virtual environment lies."""
        packages = Path(__file__).resolve().parents[2]
        ours = [str(packages / name) for name in ("podwire", "nodeagent")]  # not what else lies in a checkout
        places = [sys.prefix, sys.base_prefix, *ours]
        return cls(sys.executable or "python3", str(packages), needed_binds([*places, *map(_real, places)]))

    @property
    def agnhost(self) -> str:
        """The script that stands at `/agnhost`."""
        path, python = shlex.quote(self.python_path), shlex.quote(self.python)
        return f'#!/bin/sh\nPYTHONPATH={path} exec {python} -m nodeagent.workload.agnhost "$@"\n'


def needed_binds(places: Iterable[str]) -> tuple[str, ...]:
    """The outermost of these directories, without those that every container sees."""
    kept: list[str] = []
    for place in sorted({str(Path(place)) for place in places}):
        if place != "/" and not any(
            place == outer or place.startswith(f"{outer}/") for outer in (*SHOWN_ANYWAY, *kept)
        ):
            kept.append(place)
    return tuple(kept)


def capability_mask(add: Iterable[str], drop: Iterable[str], *, privileged: bool) -> int:
    """Bit n stands for the kernel's capability n. `ALL` adds or drops all; an added one survives dropping all."""
    everything = frozenset(CAPABILITIES)
    if privileged:
        return (1 << len(CAPABILITIES)) - 1
    added, dropped = _names(add, "add"), _names(drop, "drop")
    kept = (frozenset() if "ALL" in dropped else DEFAULT_CAPABILITIES) - dropped
    kept |= everything - dropped if "ALL" in added else added
    return sum(1 << CAPABILITIES.index(name) for name in kept)


def environment(run: ContainerRun) -> list[str]:
    """The container's own, with what a shell expects where it says nothing."""
    values = {"PATH": DEFAULT_PATH, "HOME": "/root", "HOSTNAME": run.hostname} | dict(run.env)
    return [f"{name}={value}" for name, value in values.items()]


def run_request(run: ContainerRun, *, record: Path, boot_id: str, programs: NodePrograms) -> list[str]:
    """Starts a container: the waiter writes `log`, `exit.json` and the record."""
    own = [f"directory={run.directory.absolute()}", f"record={record.absolute()}", f"boot={boot_id}"]
    return ["run", *own, *_new_root(run, programs), *_rights(run), *_command(run, run.argv)]


def exec_request(
    run: ContainerRun,
    argv: Iterable[str],
    *,
    init: ProcessId | None,
    size: tuple[int, int] | None,
    programs: NodePrograms,
) -> list[str]:
    """Runs a command beside a container: in its namespaces when it has an `init`, else in a new root in its sandbox.

    `size` (rows, columns) asks for a terminal.
    """
    place = [f"join={init}"] if init else _new_root(run, programs)
    terminal = [f"tty={size[0]}x{size[1]}", "env=TERM=xterm"] if size else []
    return ["exec", *place, *terminal, *_rights(run), *_command(run, argv)]


def _new_root(run: ContainerRun, programs: NodePrograms) -> list[str]:
    return [
        f"sandbox={ProcessId(run.sandbox.pid, run.sandbox.start_time)}",
        f"files={run.files.absolute()}",
        *(f"bind={path}" for path in programs.binds),
        f"executable=/agnhost\n{programs.agnhost}",
    ]


def _rights(run: ContainerRun) -> list[str]:
    mask = capability_mask(run.add_capabilities, run.drop_capabilities, privileged=run.privileged)
    return [f"capabilities={mask:x}", *(["privileged=1"] if run.privileged else [])]


def _command(run: ContainerRun, argv: Iterable[str]) -> list[str]:
    directory = run.working_dir if run.working_dir.startswith("/") else f"/{run.working_dir}"
    return [f"cwd={directory}", *(f"env={pair}" for pair in environment(run)), *(f"arg={word}" for word in argv)]


def _names(names: Iterable[str], verb: str) -> frozenset[str]:
    plain = frozenset(name.upper().removeprefix("CAP_") for name in names)
    for name in sorted(plain - frozenset(CAPABILITIES) - {"ALL"}):
        raise InvalidInput(f'unknown capability "{name}"', field=f"securityContext.capabilities.{verb}")
    return plain


def _real(place: str) -> str:
    return str(Path(place).resolve())
