"""Builds the one image of controller and nodes, and does nothing when its inputs have not changed.

In: an engine, and this installation's own packages. Out: the image's name, `podwire:<hash>` (also tagged `podwire:dev`). Wheels are
installed outside the build (`pip --target`, from the hash-pinned lock, for the image's Python), because a build has neither this
machine's certificates nor its proxies. The base comes from `compose.base_image`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from compose import base_image, host_packages
from compose import engine as engines
from compose.engine import Engine
from compose.host_packages import Say
from podwire.errors import PodwireError, Unavailable, Unsupported

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LOCK = HERE / "requirements.lock"
APP_PACKAGES = ("podwire", "controller", "nodeagent")
REPOSITORY = "podwire"
LABEL = "dev.podwire.image"
IMAGE_PYTHON = "3.13"  # Debian 13's
# Only the command line uses these, and it runs on the host.
HOST_ONLY = frozenset(
    [
        "certifi",
        "charset-normalizer",
        "click",
        "colorama",
        "docker",
        "idna",
        "markdown-it-py",
        "mdurl",
        "pygments",
        "pywin32",
        "requests",
        "rich",
        "urllib3",
    ]
)
_IGNORED = ("__pycache__", "*.pyc", "*.[cho]", "cli", "drivers")


def ensure(engine: Engine, say: Say) -> str:
    """The image's name, built first where it is missing or an input changed."""
    _ensure_generated(say)
    if there := current(engine):
        return there
    wanted = input_hash()
    name = f"{REPOSITORY}:{wanted}"
    base = base_image.ensure(engine, say)
    say("building the podwire image")
    context = _stage(say)
    engine.docker(
        "build",
        "--quiet",
        *("--build-arg", f"BASE={base}"),
        *("--build-arg", f"PACKAGES={' '.join(base_image.PACKAGES)}"),
        *("--label", f"{LABEL}={wanted}"),
        *("--tag", name),
        *("--tag", f"{REPOSITORY}:dev"),
        str(context),
    )
    _drop_superseded(engine, name)
    return name


def current(engine: Engine) -> str:
    """The image's name where `ensure` would have nothing to do; else empty."""
    wanted = input_hash()
    name = f"{REPOSITORY}:{wanted}"
    return name if engine.image_label(name, LABEL) == wanted else ""


def _drop_superseded(engine: Engine, name: str) -> None:
    """Earlier builds go, except where a container still uses one: docker refuses those, and the next build tries again."""
    listed = engine.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter", f"label={LABEL}")
    for earlier in set(listed.split()) - {name, f"{REPOSITORY}:dev"}:
        with contextlib.suppress(Unavailable):
            engine.docker("image", "rm", earlier)


def input_hash() -> str:
    """Names everything that goes into the image."""
    digest = hashlib.sha256(f"{base_image.recipe_hash()} {platform.machine()}".encode())
    for path in _inputs():
        digest.update(f"{path.relative_to(ROOT)}\0{path.stat().st_mode & 0o111:o}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def runtime_requirements(lock: str) -> str:
    """The lock without what only the host uses."""
    entries = re.split(r"\n(?=\S)", lock.strip())
    return "\n".join(entry for entry in entries if re.split(r"[=\s\[]", entry)[0] not in HOST_ONLY) + "\n"


def _inputs() -> Iterator[Path]:
    yield HERE / "Dockerfile"
    yield LOCK
    ignored = shutil.ignore_patterns(*_IGNORED)
    for top in (HERE / "rootfs", *(ROOT / name for name in APP_PACKAGES)):
        for directory, directories, files in os.walk(top):
            skipped = ignored(directory, [*directories, *files])
            directories[:] = sorted(set(directories) - skipped)
            yield from (Path(directory) / name for name in sorted(set(files) - skipped))


def _build_directory() -> Path:
    """Where intermediate files live: beside the sources in a checkout, else in the user's cache."""
    if (ROOT / "pyproject.toml").exists():
        return ROOT / ".build"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "podwire" / "build"


def _stage(say: Say) -> Path:
    """Lays out the build context."""
    context = _build_directory() / "image"
    for part in ("rootfs", "app"):
        shutil.rmtree(context / part, ignore_errors=True)
    context.mkdir(parents=True, exist_ok=True)
    shutil.copy2(HERE / "Dockerfile", context / "Dockerfile")
    shutil.copytree(HERE / "rootfs", context / "rootfs")
    for name in APP_PACKAGES:
        shutil.copytree(ROOT / name, context / "app" / name, ignore=shutil.ignore_patterns(*_IGNORED))
    _stage_site(context, say)
    return context


def _stage_site(context: Path, say: Say) -> None:
    """Installs the runtime's wheels for the image's Python, whatever Python runs here."""
    requirements = runtime_requirements(LOCK.read_text())
    machine = platform.machine()
    stamp = context / "site.stamp"
    wanted = hashlib.sha256(f"{machine} {IMAGE_PYTHON}\n{requirements}".encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    say("fetching the image's Python packages")
    shutil.rmtree(context / "site", ignore_errors=True)
    listed = context / "requirements.txt"
    listed.write_text(requirements)
    platforms = (f"manylinux_2_28_{machine}", f"manylinux_2_17_{machine}", f"manylinux2014_{machine}")
    command = [*_pip(), "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]
    command += [
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
        "--no-compile",
        "--target",
        str(context / "site"),
    ]
    command += ["--implementation", "cp", "--python-version", IMAGE_PYTHON]
    command += [f"--platform={name}" for name in platforms] + ["--requirement", str(listed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Unsupported(f"pip could not fetch the image's Python packages: {reason}", hint=f"see {listed}")
    stamp.write_text(wanted)


def _pip() -> list[str]:
    """pip of this interpreter, else any: with --target and --python-version it matters little whose."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    for name in ("pip3", "pip"):
        if shutil.which(name):
            return [name]
    raise Unsupported("building the image needs pip, and there is none", hint="install python3-pip")


def _ensure_generated(say: Say) -> None:
    """In a checkout, makes the stubs and the helper again when their sources are newer; an installed podwire ships both."""
    hook = ROOT / "protos" / "hatch_build.py"
    if not hook.exists():
        return
    helper = ROOT / "nodeagent" / "helper"
    stubs = ROOT / "podwire" / "api" / "v1"
    stale = any(_older(helper / "podwire-helper", source) for source in helper.glob("*.[ch]")) or any(
        _older(stubs / f"{proto.stem}_pb2.py", proto) for proto in (ROOT / "protos").rglob("*.proto")
    )
    if not stale:
        return
    host_packages.ensure(["compiler"], say)
    done = subprocess.run([sys.executable, str(hook)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unsupported("the helper or the stubs could not be made", hint=done.stderr.strip()[-2000:])


def _older(product: Path, source: Path) -> bool:
    return not product.exists() or product.stat().st_mtime < source.stat().st_mtime


def main() -> int:
    """`python -m compose.image`: prints the image's name."""

    def say(line: str) -> None:
        print(line, file=sys.stderr)  # noqa: T201 - a script

    try:
        print(ensure(engines.ensure(say), say))  # noqa: T201 - a script
    except PodwireError as error:
        say(f"{error.message}; {error.hint}" if error.hint else error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
