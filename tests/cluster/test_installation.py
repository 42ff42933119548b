"""An installation without a checkout, as pipx makes one: the wheel is built from sources alone, and both drivers work from it."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from compose import image
from compose.engine import Engine
from podwire.drivers.local.facts import collect
from tests.cluster.commandline import CommandLine

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("podwire", "controller", "nodeagent", "compose")
EXECUTABLE = 0o111
LOADER = 3  # PT_INTERP of elf(5): a program that is not static names its loader


def run(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def segments(program: bytes) -> set[int]:
    """The kinds of segment in a 64-bit ELF file."""
    assert program.startswith(b"\x7fELF\x02")
    (table,) = struct.unpack_from("=Q", program, 0x20)
    size, count = struct.unpack_from("=HH", program, 0x36)
    return {struct.unpack_from("=I", program, table + size * number)[0] for number in range(count)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy that has nothing generated or compiled in it."""
    if not (shutil.which("gcc") or shutil.which("cc")):
        pytest.skip("building a wheel takes a C compiler")
    sources, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    generated = shutil.ignore_patterns("__pycache__", "*_pb2*", "podwire-helper")
    for name in (*PACKAGES, "protos"):
        shutil.copytree(ROOT / name, sources / name, ignore=generated)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy2(ROOT / name, sources)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet")
    run(*pip, "--no-build-isolation", "--no-deps", "--wheel-dir", out, sources)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that has the wheel, and what it depends on from this one."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", wheel)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return home / "bin"


@pytest.fixture
def command(installed: Path, own_state: Path) -> Iterator[CommandLine]:
    """Its command line, with a cluster that is removed at the end."""
    made = CommandLine("test-installed", program=(str(installed / "podwire"),))
    yield made
    made.run("down")


def test_the_wheel_has_what_both_drivers_need_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        modes = {entry.filename: entry.external_attr >> 16 for entry in archive.infolist()}
        helper = archive.read("nodeagent/helper/podwire-helper")
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "compose").rglob("*") if path.is_file()}
    wanted |= {str(path.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    wanted = {name for name in wanted if "__pycache__" not in name}
    assert wanted <= modes.keys()
    for name in ("nodeagent/helper/podwire-helper", "compose/rootfs/usr/local/sbin/podwire-entrypoint"):
        assert modes[name] & EXECUTABLE == EXECUTABLE
    assert LOADER not in segments(helper)
    assert {name.partition("/")[0] for name in modes if ".dist-info/" not in name} == set(PACKAGES)
    assert not [name for name in modes if name.endswith((".c", ".h", ".o", ".proto"))]


def test_the_wheel_is_for_this_machine_type_and_every_libc(wheel: Path) -> None:
    machine = sysconfig.get_platform().rpartition("-")[2]
    tags = f"py3-none-manylinux_2_17_{machine}.musllinux_1_1_{machine}"
    assert wheel.name.endswith(f"-{tags}.whl")


def test_the_code_that_runs_is_the_installed_one(installed: Path) -> None:
    places = "import podwire, controller, nodeagent, compose as c; print(podwire.__file__, controller.__file__, nodeagent.__file__, c.__file__)"
    for place in run(installed / "python", "-P", "-c", places).split():
        assert Path(place).is_relative_to(installed.parent)


def test_the_local_driver_works_from_there(command: CommandLine) -> None:
    if lacking := [f"{fact.name}: {fact.value}" for fact in collect() if not fact.ok]:
        pytest.skip(f"the local driver cannot work here: {lacking[0]}")
    command.run("up", "--driver", "local", "--nodes", "2")
    verdicts = command.json("test", "network")
    assert verdicts["ok"], verdicts


def test_the_docker_driver_works_from_there(docker_engine: Engine, command: CommandLine, installed: Path) -> None:
    """The image that it would build is the very one that a checkout builds."""
    hashed = run(installed / "python", "-P", "-c", "from compose import image; print(image.input_hash())")
    assert hashed.strip() == image.input_hash()
    command.run("up", "--driver", "docker", "--nodes", "2")
    verdicts = command.json("test", "network")
    assert verdicts["ok"], verdicts
