"""Makes the base image: Debian 13 with every package the node image needs, from a registry or from a Debian mirror.

In: an engine. Out: the name of an image that `compose/Dockerfile` starts from. Where a registry answers quickly, that is the pulled
`debian:trixie-slim` (the Dockerfile then adds the packages with apt); where none does, mmdebstrap makes one with the packages
inside and `docker import` takes it, so that the Dockerfile builds without network. The image carries a hash of its
recipe as a label and is made again only when that changes.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile

from compose import engine as engines
from compose import host_packages
from compose.engine import Engine
from compose.host_packages import Say
from podwire.errors import PodwireError, Unavailable, Unsupported

SUITE = "trixie"
PULLED = f"debian:{SUITE}-slim"
IMPORTED = "podwire-base"
LABEL = "dev.podwire.base"
PULL_TIMEOUT_S = 20.0
PROBE_TIMEOUT_S = 5.0

PACKAGES = (
    "python3",
    "nftables",
    "libnftables1",
    "iproute2",
    "conntrack",
    "tcpdump",
    "s6",
    "curl",
    "iputils-ping",
    "bind9-dnsutils",
    "netcat-openbsd",
    "iperf3",
    "procps",
    "ca-certificates",
)

# Documentation and translations are of no use in a container; licences stay.
_DPKG = (
    "force-unsafe-io",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/info/*",
)
_CLEAN = 'rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/* "$1"/var/cache/debconf/*-old "$1"/var/log/*'


def recipe_hash() -> str:
    """Names the base's inputs: suite, packages and the way it is made."""
    return hashlib.sha256("\n".join((SUITE, *PACKAGES, *_DPKG, _CLEAN)).encode()).hexdigest()[:16]


def ensure(engine: Engine, say: Say) -> str:
    """The base image's name, made first where it is missing or its recipe changed."""
    imported = f"{IMPORTED}:{recipe_hash()}"
    if engine.image_label(imported, LABEL) == recipe_hash():
        return imported
    if _present(engine, PULLED) or _pull(engine, say):
        return PULLED
    _bootstrap(engine, imported, say)
    return imported


def _present(engine: Engine, image: str) -> bool:
    try:
        engine.docker("image", "inspect", image)
    except Unavailable:
        return False
    return True


def _pull(engine: Engine, say: Say) -> bool:
    """Pulls the base where the engine reaches a registry; the engine is asked, since it has its own mirrors and proxies."""
    say(f"asking the registry for {PULLED}")
    try:
        engine.docker("manifest", "inspect", PULLED, timeout_s=PROBE_TIMEOUT_S)
        engine.docker("pull", "--quiet", PULLED, timeout_s=PULL_TIMEOUT_S * 6)
    except (Unavailable, subprocess.TimeoutExpired):
        return False
    return True


def _bootstrap(engine: Engine, image: str, say: Say) -> None:
    if os.geteuid() != 0:
        raise Unsupported(
            "no registry answers, and only root can make the base image from Debian packages",
            hint="run `make images` as root once, or pull " + PULLED,
        )
    host_packages.ensure(["bootstrap"], say)
    say(f"no registry answers: making the base image from Debian {SUITE} packages (about half a minute)")
    mirror = engines.debian_mirror()  # none on Ubuntu: mmdebstrap then takes its own default
    with tempfile.TemporaryDirectory(prefix="podwire-base-") as directory:
        archive = f"{directory}/base.tar"
        command = [
            "mmdebstrap",
            "--variant=minbase",
            "--mode=root",
            "--quiet",
            "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
            f"--include={','.join(('usr-is-merged', *PACKAGES))}",
            '--aptopt=Apt::Install-Recommends "0"',
            *(f"--dpkgopt={option}" for option in _DPKG),
            f"--customize-hook={_CLEAN}",
            SUITE,
            archive,
            *([mirror] if mirror else []),
        ]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            reason = (made.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise Unsupported(
                f"mmdebstrap could not make the base image: {reason}",
                hint="check that this machine reaches a Debian mirror",
            )
        label = f"LABEL {LABEL}={recipe_hash()}"
        engine.docker("import", "--change", label, "--change", 'CMD ["bash"]', archive, image)


def main() -> int:
    """`python -m compose.base_image`: prints the base image's name."""
    try:
        engine = engines.ensure(_say)
        print(ensure(engine, _say))  # noqa: T201 - a script
    except PodwireError as error:
        _say(f"{error.message}; {error.hint}" if error.hint else error.message)
        return 1
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201 - a script


if __name__ == "__main__":
    sys.exit(main())
