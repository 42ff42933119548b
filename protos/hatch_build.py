"""Build hook: generates `podwire/api/v1` from `protos/` and compiles the static helper.

In: every `.proto` below `protos/`, and `nodeagent/helper/*.c`. Out: Python stubs whose import path equals the proto path
(so nothing has to be rewritten), and `nodeagent/helper/podwire-helper` where a C compiler is at hand. `make protos` runs the
same functions.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def generate_stubs(root: Path = ROOT) -> None:
    """Runs protoc over all contracts; raises RuntimeError with protoc's exit code on failure."""
    from grpc_tools import protoc  # noqa: PLC0415 - a build-time dependency

    protos = root / "protos"
    sources = sorted(str(path) for path in protos.rglob("*.proto"))
    out = str(root)
    bin_dir = Path(sys.executable).parent
    plugins = [
        f"--plugin={name}={bin_dir / name}"
        for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
        if (bin_dir / name).exists()
    ]
    typed = [f"--mypy_out={out}", f"--mypy_grpc_out={out}"] if shutil.which("protoc-gen-mypy") or plugins else []
    code = protoc.main(
        ["protoc", f"-I{protos}", f"--python_out={out}", f"--grpc_python_out={out}", *plugins, *typed, *sources]
    )
    if code != 0:
        raise RuntimeError(f"protoc failed with exit code {code}; run `buf lint` for the reason")


def build_helper(root: Path = ROOT) -> bool:
    """Compiles the static helper; returns False (and leaves things alone) where no C compiler is installed."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    folder = root / "nodeagent" / "helper"
    sources = sorted(folder.glob("*.c"))
    target = folder / "podwire-helper"
    if compiler is None or not sources:
        return False
    newest = max(path.stat().st_mtime for path in [*sources, *folder.glob("*.h")])
    if target.exists() and target.stat().st_mtime >= newest:
        return True
    beside = target.with_suffix(".new")  # a running helper's file cannot be written to
    subprocess.run(
        [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s", "-o", str(beside), *map(str, sources)],
        check=True,
    )
    beside.rename(target)
    return True


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # `make protos` outside a build
    pass
else:

    class ProtoBuildHook(BuildHookInterface):  # type: ignore[type-arg]
        """Runs before a wheel or an editable install is assembled; a source distribution carries nothing that is generated."""

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            """Generates, compiles, and tags the wheel with this machine's type; raises RuntimeError for one without the helper."""
            if self.target_name != "wheel":
                return
            generate_stubs(Path(self.root))
            if not build_helper(Path(self.root)) and version != "editable":
                raise RuntimeError("a wheel carries the compiled helper, and there is no C compiler here: install gcc")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform_tag()}"


def platform_tag() -> str:
    """The machine type, with every libc: the helper is static, and nothing else in the wheel is compiled."""
    machine = platform.machine()
    return f"manylinux_2_17_{machine}.musllinux_1_1_{machine}"


if __name__ == "__main__":
    generate_stubs()
    build_helper()
