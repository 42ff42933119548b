"""What runs for an image."""

from __future__ import annotations

import pytest

from controller.images import program, repository
from podwire.api.v1 import state_pb2 as state

BUILT_IN, PROCESS, STAND_IN = (
    state.CONTAINER_KIND_BUILT_IN,
    state.CONTAINER_KIND_PROCESS,
    state.CONTAINER_KIND_STAND_IN,
)

CASES: list[tuple[str, str, list[str], list[str], int, tuple[str, ...]]] = [
    ("default", "example.org/e2e/agnhost:2.47", [], [], BUILT_IN, ("pause",)),
    ("bare name", "agnhost", [], ["netexec", "--http-port=80"], BUILT_IN, ("netexec", "--http-port=80")),
    ("digest", "host:5000/agnhost@sha256:0", [], ["porter"], BUILT_IN, ("porter",)),
    ("as command", "agnhost:1", ["/agnhost"], ["connect", "x:1"], BUILT_IN, ("connect", "x:1")),
    ("as command alone", "agnhost:1", ["/agnhost", "serve-hostname"], [], BUILT_IN, ("serve-hostname",)),
    ("another program of it", "agnhost", [], ["dns-suffix"], PROCESS, ("/agnhost", "dns-suffix")),
    ("another command in it", "agnhost", ["sh", "-c"], ["sleep 5"], PROCESS, ("sh", "-c", "sleep 5")),
    ("pause", "example.org/pause:3.10", [], [], BUILT_IN, ("pause",)),
    ("shell", "podwire/shell", [], [], PROCESS, ("sleep", "infinity")),
    ("shell with command", "podwire/shell:1", ["ip"], ["addr"], PROCESS, ("ip", "addr")),
    ("shell with args", "podwire/shell", [], ["ip", "addr"], PROCESS, ("ip", "addr")),
    ("anything else", "nginx:1.27", [], [], STAND_IN, ()),
    ("not agnhost", "example.org/my-agnhost:1", [], [], STAND_IN, ()),
]


@pytest.mark.parametrize(
    ("image", "command", "args", "kind", "argv"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_programs(image: str, command: list[str], args: list[str], kind: int, argv: tuple[str, ...]) -> None:
    made = program(image, command, args)
    assert (made.kind, made.argv) == (kind, argv)


def test_repository() -> None:
    """A port is not a tag."""
    assert repository("host:5000/a/b:1@sha256:0") == "host:5000/a/b"
    assert repository("host:5000/a/b") == "host:5000/a/b"
