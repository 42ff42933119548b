"""What runs for an image: no registry is needed, because the images that network work uses are built in.

In: a container's image, command and args. Out: its kind and command line. Pure.

* `agnhost`, under any registry and tag: its networking programs are hosted by the node's workload process; any other command of
  that image is a real process, where the programs of the node image stand for upstream's.
* `pause`: nothing but a place to be.
* `podwire/shell`: a real process on the node image's file system.
* everything else: a stand-in that answers on the declared ports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from podwire.api.v1 import state_pb2 as state

AGNHOST_BUILT_INS = frozenset({"netexec", "serve-hostname", "connect", "porter", "pause"})
AGNHOST = "agnhost"
SHELL = "podwire/shell"
SHELL_DEFAULT = ("sleep", "infinity")


@dataclass(frozen=True, slots=True)
class Program:
    """How a container is run, and its whole command line."""

    kind: state.ContainerKind.ValueType
    argv: tuple[str, ...]


def repository(image: str) -> str:
    """The image's name without digest and tag: `host:5000/a/b:1@sha256:…` → `host:5000/a/b`."""
    name = image.split("@", 1)[0]
    head, slash, tail = name.rpartition("/")
    return f"{head}{slash}{tail.split(':', 1)[0]}"


def program(image: str, command: Sequence[str], args: Sequence[str]) -> Program:
    """What runs for this image; `command` replaces the image's entry point, `args` its arguments, as in Kubernetes."""
    name = repository(image)
    last = name.rpartition("/")[2]
    if last == AGNHOST:
        return _agnhost(command, args)
    if last == "pause":
        if command:
            return Program(state.CONTAINER_KIND_PROCESS, (*command, *args))
        return Program(state.CONTAINER_KIND_BUILT_IN, ("pause",))
    if name == SHELL or name.endswith(f"/{SHELL}"):
        return Program(state.CONTAINER_KIND_PROCESS, (*command, *args) or SHELL_DEFAULT)
    return Program(state.CONTAINER_KIND_STAND_IN, (*command, *args))


def _agnhost(command: Sequence[str], args: Sequence[str]) -> Program:
    """Upstream's entry point is `/agnhost` with the default argument `pause`; the first argument names the program."""
    if command and command[0].rpartition("/")[2] != AGNHOST:
        return Program(state.CONTAINER_KIND_PROCESS, (*command, *args))
    argv = (*command[1:], *args) or ("pause",)
    if argv[0] in AGNHOST_BUILT_INS:
        return Program(state.CONTAINER_KIND_BUILT_IN, argv)
    return Program(state.CONTAINER_KIND_PROCESS, ("/agnhost", *argv))
