"""Which program answers to which name.

In: a program's name. Out: its `main`, imported when first asked for. An unknown name is a program too: one that prints upstream's
message and exits with 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import cast

from nodeagent.workload.flags import UsageError
from nodeagent.workload.life import Life, Program

STAND_IN = "stand-in"
PROGRAMS: Mapping[str, tuple[str, str]] = {
    "netexec": ("netexec", "main"),
    "serve-hostname": ("serve_hostname", "main"),
    "connect": ("connect", "main"),
    "porter": ("porter", "main"),
    "pause": ("pause", "main"),
    "test-webserver": ("test_webserver", "main"),
    "etc-hosts": ("resolver_files", "etc_hosts"),
    "dns-suffix": ("resolver_files", "dns_suffix"),
    "dns-server-list": ("resolver_files", "dns_server_list"),
    STAND_IN: ("stand_in", "main"),
}


def program(name: str) -> Program:
    """The program of that name, which prints usage errors as upstream does."""
    if name not in PROGRAMS:
        return _unknown(name)
    module, function = PROGRAMS[name]
    main = cast("Program", getattr(import_module(f"nodeagent.workload.programs.{module}"), function))

    async def run(life: Life, args: tuple[str, ...]) -> int:
        try:
            return await main(life, args)
        except UsageError as error:
            life.log(f"Error: {error}\nUsage:\n  app {name} [flags]\n")
            return 1

    return run


def _unknown(name: str) -> Program:
    async def run(life: Life, _: tuple[str, ...]) -> int:
        life.log(f"Error: unknown command {_quoted(name)} for \"app\"\nRun 'app --help' for usage.")
        return 1

    return run


def _quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
