"""`podwire doctor`: what this machine can and cannot do, with the exact fix.

In: nothing; both drivers are asked, whatever cluster there is. Out: a table, and exit code 1 when neither driver could make a cluster here.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from podwire.cli import options
from podwire.cli.app import App, driver_named, pass_app
from podwire.cli.output import Output, print_structured
from podwire.cli.tables import Table
from podwire.errors import PodwireError

if TYPE_CHECKING:
    from podwire.drivers.base import Fact

TOOLS = {
    "ip": "apt-get install iproute2",
    "nft": "apt-get install nftables",
    "tcpdump": "apt-get install tcpdump; for looking at packets",
    "gcc": "apt-get install gcc; builds the helper in a checkout",
}


@click.command("doctor")
@options.output_option()
@pass_app
def command(app: App, *, output: Output) -> int:
    """Show what this machine can do for a cluster, and how to mend what it cannot."""
    from podwire.drivers.base import DRIVERS

    groups: dict[str, Sequence[Fact]] = {"machine": _machine()}
    for name in DRIVERS:
        groups[name] = app.run_async(_driver_facts(app, name))
    usable = [name for name in DRIVERS if all(fact.ok for fact in groups[name])]
    if output.tabular:
        rows = [
            (group, fact.name, _verdict(fact), fact.value, fact.fix or "-")
            for group, facts in groups.items()
            for fact in facts
        ]
        app.renderer.table(Table(("AREA", "FACT", "OK", "FOUND", "FIX"), tuple(rows)))
        app.renderer.line("")
        app.renderer.line(f"Usable drivers: {', '.join(usable) or 'none'}")
    else:
        print_structured(
            app.renderer,
            output,
            {
                "apiVersion": "podwire.dev/v1alpha1",
                "kind": "Doctor",
                "usableDrivers": usable,
                "facts": [
                    {"area": group, "name": fact.name, "ok": fact.ok, "found": fact.value, "fix": fact.fix}
                    for group, facts in groups.items()
                    for fact in facts
                ],
            },
        )
    return 0 if usable else 1


async def _driver_facts(app: App, name: str) -> Sequence[Fact]:
    from podwire.drivers.base import Fact

    try:
        return await driver_named(name, app.cluster).facts()
    except PodwireError as error:
        return [Fact(name, error.message, ok=False, fix=error.hint)]
    except OSError as error:  # a file of the user's that this user may not read, for one
        return [Fact(name, str(error), ok=False)]


def _machine() -> list[Fact]:
    from podwire.drivers.base import Fact

    facts = [
        Fact("kernel", f"{platform.release()} {platform.machine()}", ok=platform.system() == "Linux"),
        Fact("python", platform.python_version(), ok=True),
        Fact("user", "root" if os.geteuid() == 0 else "not root", ok=True),
    ]
    for tool, fix in TOOLS.items():
        path = shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        facts.append(Fact(f"tool {tool}", path or "not found (optional)", ok=True, fix="" if path else fix))
    return facts


def _verdict(fact: Fact) -> str:
    """What is fine, what can be done without, and what must be mended."""
    if not fact.ok:
        return "no"
    return "optional" if fact.fix else "yes"
