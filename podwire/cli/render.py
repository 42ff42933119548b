"""What reaches the screen: tables, progress lines, errors. The only module that draws, and the only one that imports rich.

In: plain values (`Table`, sentences, stages). Out: standard output for results, standard error for everything else. A terminal gets
colour and a line per stage with its time; a pipe gets the same words plainly, and rich is not even imported. `NO_COLOR` and
`--quiet` are honoured here and nowhere else.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TextIO

from podwire.cli.humanize import stage_time
from podwire.cli.tables import Table

if TYPE_CHECKING:
    from rich.console import Console

    from podwire.seams import Clock  # brings asyncio, which `--help` need not wait for

GAP = "   "  # between columns, as kubectl has it

_GOOD = frozenset(
    {"Ready", "Running", "Active", "Completed", "Succeeded", "True", "ok", "pass", "running", "yes", "created"}
)
_BAD = frozenset(
    {"NotReady", "Failed", "Error", "CrashLoopBackOff", "Unknown", "FAIL", "Warning", "no", "stopped", "False"}
)
_PENDING = frozenset({"Pending", "ContainerCreating", "Terminating", "PodInitializing", "paused", "skip"})


def style_of(word: str) -> str:
    """The colour of a cell, by its first word; empty for none."""
    first = word.replace(",", " ").split(" ", 1)[0]
    if first in _GOOD:
        return "green"
    if first in _BAD or first.startswith(("Init:Error", "Init:Crash", "ExitCode", "Signal")):
        return "red"
    return "yellow" if first in _PENDING or first.startswith("Init:") else ""


class Renderer:
    """Draws on two streams; made once per command."""

    def __init__(
        self, clock: Clock, *, quiet: bool = False, out: TextIO | None = None, err: TextIO | None = None
    ) -> None:
        self._clock = clock
        self.quiet = quiet
        self._out = out or sys.stdout
        self._err = err or sys.stderr

    def line(self, text: str) -> None:
        """One line of the result."""
        print(text, file=self._out, flush=True)

    def raw(self, text: str) -> None:
        """Result text as it is, without a line end of ours."""
        self._out.write(text)
        self._out.flush()

    def note(self, text: str) -> None:
        """Something beside the result: progress, hints. Not shown when quiet."""
        if not self.quiet:
            print(text, file=self._err, flush=True)

    def error(self, message: str, hint: str = "") -> None:
        """An error's sentence and what to do about it."""
        if self._colourful(self._err):
            console = _console(self._err)
            console.print("[bold red]error:[/] ", end="")
            console.print(message, markup=False, highlight=False, soft_wrap=True)
        else:
            print(f"error: {message}", file=self._err)
        if hint:
            print(f"hint: {hint}", file=self._err, flush=True)

    def table(self, table: Table, *, header: bool = True, widths: Sequence[int] = ()) -> tuple[int, ...]:
        """Columns padded to their widest cell. Returns the widths, so that later rows of a watch can keep them."""
        shown = [table.titles, *table.rows] if header else list(table.rows)
        found = tuple(max((len(row[i]) for row in shown), default=0) for i in range(len(table.titles)))
        used = tuple(max(pair) for pair in zip(found, widths, strict=True)) if widths else found
        colourful = self._colourful(self._out)
        for number, row in enumerate(shown):
            title = header and number == 0
            padded = [cell.ljust(used[i]) if i < len(row) - 1 else cell for i, cell in enumerate(row)]
            if not colourful:
                print(GAP.join(padded), file=self._out)
                continue
            self._coloured(row, padded, title=title)
        self._out.flush()
        return used

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """A stage of a long command: shown while it runs (terminal), and with its time when it is over."""
        began = self._clock.monotonic()
        terminal = not self.quiet and self._err.isatty()
        try:
            with _console(self._err).status(title) if terminal else nullcontext():
                yield
        except BaseException:
            self._stage_end(title, began, terminal=terminal, good=False)
            raise
        self._stage_end(title, began, terminal=terminal, good=True)

    def _stage_end(self, title: str, began: float, *, terminal: bool, good: bool) -> None:
        took = stage_time(self._clock.monotonic() - began)
        if not terminal:
            self.note(f"{title}: {'done' if good else 'failed'} in {took}")
            return
        console = _console(self._err)
        mark, colour = ("✓", "green") if good else ("✗", "red")
        styled = (
            f"[{colour}]{mark}[/] {title} [dim]{took}[/]" if self._colourful(self._err) else f"{mark} {title} {took}"
        )
        console.print(styled, highlight=False, soft_wrap=True)

    def _coloured(self, row: Sequence[str], padded: Sequence[str], *, title: bool) -> None:
        from rich.text import Text

        text = Text()
        for i, (cell, shown) in enumerate(zip(row, padded, strict=True)):
            text.append(shown, style="bold" if title else style_of(cell))
            if i < len(row) - 1:
                text.append(GAP)
        _console(self._out).print(text, soft_wrap=True)

    def _colourful(self, stream: TextIO) -> bool:
        return stream.isatty() and not os.environ.get("NO_COLOR")


_consoles: dict[int, Any] = {}


def _console(stream: TextIO) -> Console:
    """rich's console on a stream; imported late, since a pipe never needs it."""
    from rich.console import Console

    if id(stream) not in _consoles:
        _consoles[id(stream)] = Console(file=stream, no_color=bool(os.environ.get("NO_COLOR")))
    found: Console = _consoles[id(stream)]
    return found


def matrix(names: Sequence[str], cell: Callable[[str, str], str]) -> Table:
    """Every name against every name: rows are sources, columns destinations."""
    return Table(
        ("FROM \\ TO", *names),
        tuple((source, *(cell(source, target) for target in names)) for source in names),
    )
