"""The command line as a user has it, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from podwire.seams import SystemClock

WITHIN_S = 120.0
SAID_WITHIN_S = 10.0


@dataclass(frozen=True)
class CommandLine:
    """`podwire --cluster NAME …`; as somebody else where `through` is a program that becomes them."""

    cluster: str
    through: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    program: Sequence[str] = (sys.executable, "-m", "podwire.cli.main")

    def run(self, *argv: str, code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Runs it; the exit code must be as said, and no traceback may show."""
        done = subprocess.run(
            [*self.through, *self.program, "--cluster", self.cluster, *argv],
            capture_output=True,
            text=True,
            check=False,
            input=stdin,
            timeout=WITHIN_S,
            env={**os.environ, **self.environment},
        )
        assert done.returncode == code, f"{argv}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def json(self, *argv: str, code: int = 0) -> Any:
        """What it prints with `-o json`."""
        return json.loads(self.run(*argv, "-o", "json", code=code).stdout)

    def says(self, *argv: str, words: tuple[str, ...]) -> str:
        """What a command prints once it holds all these words: events are written within half a second, not at once."""
        clock = SystemClock()
        deadline = clock.monotonic() + SAID_WITHIN_S
        said = self.run(*argv).stdout
        while not all(word in said for word in words):
            assert clock.monotonic() < deadline, f"not within {SAID_WITHIN_S:.0f} s: {words} in {said}"
            clock.pause(0.05)
            said = self.run(*argv).stdout
        return said
