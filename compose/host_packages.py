"""Programs of the host that podwire needs, installed with apt where that is possible.

In: names of groups (`GROUPS`). Out: nothing but the installed packages; what is there already costs a look-up in PATH. As root on
Debian or Ubuntu the missing packages are installed, and a line says so; anyone else gets one sentence with the command to run.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from podwire.errors import Unsupported
from podwire.seams import SystemClock

Say = Callable[[str], None]

# What proves that a package is there (a program, a file by its absolute path, or `import:` a module) → the package.
GROUPS: dict[str, dict[str, str]] = {
    "venv": {"import:ensurepip": "python3-venv"},
    "compiler": {"gcc": "gcc", "/usr/include/stdlib.h": "libc6-dev"},
    "node": {"nft": "nftables", "ip": "iproute2", "conntrack": "conntrack", "mount": "mount", "unshare": "util-linux"},
    "tools": {
        "curl": "curl",
        "dig": "dnsutils",
        "ping": "iputils-ping",
        "nc": "netcat-openbsd",
        "tcpdump": "tcpdump",
        "iperf3": "iperf3",
    },
    "bootstrap": {"mmdebstrap": "mmdebstrap"},
}


def os_release(path: Path = Path("/etc/os-release")) -> dict[str, str]:
    """The machine's distribution as `KEY: value`; empty where nothing says."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines if "=" in line)
    return {key: value.strip("\"'") for key, _, value in pairs}


def uses_apt() -> bool:
    """Whether this machine is Debian, Ubuntu or one of their children."""
    release = os_release()
    family = {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
    return bool(family & {"debian", "ubuntu"}) and shutil.which("apt-get") is not None


def missing(groups: Iterable[str]) -> list[str]:
    """Packages of these groups that the machine lacks."""
    return [package for group in groups for proof, package in GROUPS[group].items() if not _present(proof)]


def ensure(groups: Sequence[str], say: Say) -> None:
    """Installs what is missing; raises Unsupported with the command to run where this user cannot."""
    packages = missing(groups)
    if packages:
        install(packages, say)


def install(packages: Sequence[str], say: Say) -> None:
    """apt-get installs these packages, after saying so."""
    if not uses_apt():
        raise Unsupported(f"this machine lacks {', '.join(packages)}", hint="install them with its package manager")
    if os.geteuid() != 0:
        raise Unsupported(
            f"this machine lacks {', '.join(packages)}, and only root can install them",
            hint=f"sudo apt-get install {' '.join(packages)}",
        )
    say(f"installing {', '.join(packages)} with apt")
    _apt("update", tries=3)
    _apt("install", "--no-install-recommends", *packages)


def _present(proof: str) -> bool:
    if proof.startswith("import:"):
        return importlib.util.find_spec(proof.removeprefix("import:")) is not None
    return Path(proof).exists() if proof.startswith("/") else shutil.which(proof) is not None


def _apt(*arguments: str, tries: int = 1) -> None:
    """Runs apt-get; a mirror that hiccups gets `tries` chances, and another apt's lock two minutes."""
    command = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=120", *arguments]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for attempt in range(1, tries + 1):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if attempt < tries:
            SystemClock().pause(2 * attempt)
    reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    raise Unsupported(f"apt-get {arguments[0]} failed: {reason}", hint=f"run it by hand: {' '.join(command)}")


def main(arguments: Sequence[str]) -> int:
    """`python -m compose.host_packages GROUP…`"""
    try:
        ensure(list(arguments) or list(GROUPS), lambda line: print(line, file=sys.stderr))  # noqa: T201 - a script
    except Unsupported as error:
        print(f"{error.message}; {error.hint}", file=sys.stderr)  # noqa: T201 - a script
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
