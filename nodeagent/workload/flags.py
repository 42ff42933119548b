"""Command lines in the way of upstream's agnhost: long flags with or without `=`, Go durations, and its error texts.

In: a table of defaults (whose types are the flags' types) and arguments. Out: values and the remaining words, or UsageError.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Value = bool | int | str | float
_LOGGING = {  # klog's flags, which upstream takes everywhere; name → whether it wants a value
    "v": True, "vmodule": True, "logtostderr": False, "alsologtostderr": False, "stderrthreshold": True, "log_dir": True,
    "log_file": True, "add_dir_header": False, "skip_headers": False, "one_output": False,
}  # fmt: skip
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)(h|ms|m|s|us|µs|ns)")
_TRUTH = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}


class UsageError(Exception):
    """The command line is wrong; `str()` is what to print."""


@dataclass(frozen=True, slots=True)
class Duration:
    """Marks a flag that takes a Go duration; its value is read as seconds."""

    default_s: float = 0.0


Kind = bool | int | str | Duration


@dataclass(frozen=True, slots=True)
class Flags:
    """What a command line said."""

    values: Mapping[str, Value]
    words: tuple[str, ...]

    def number(self, name: str) -> int:
        """The value of an integer flag."""
        return int(self.values[name])

    def seconds(self, name: str) -> float:
        """The value of a duration flag."""
        return float(self.values[name])

    def text(self, name: str) -> str:
        """The value of a string flag."""
        return str(self.values[name])

    def given(self, name: str) -> bool:
        """The value of a boolean flag."""
        return bool(self.values[name])


def duration(text: str) -> float:
    """A Go duration such as `1m30s` in seconds; raises ValueError."""
    sign, digits = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if digits == "0":
        return 0.0
    parts = _DURATION.findall(digits)
    if not parts or "".join(number + unit for number, unit in parts) != digits:
        raise ValueError(text)
    return sign * sum(float(number) * _UNITS[unit] for number, unit in parts)


def parse(args: Sequence[str], known: Mapping[str, Kind], *, words: int = 0) -> Flags:
    """Reads a command line that takes exactly `words` words besides its flags.

    Raises:
        UsageError: with upstream's text.
    """
    values: dict[str, Value] = {
        name: kind.default_s if isinstance(kind, Duration) else kind for name, kind in known.items()
    }
    rest: list[str] = []
    pending = list(args)
    while pending:
        arg = pending.pop(0)
        if arg == "--":
            rest += pending
            break
        if not arg.startswith("-") or arg == "-":
            rest.append(arg)
            continue
        name, equals, value = arg.lstrip("-").partition("=")
        if name in known:
            kind = known[name]
            if not equals and isinstance(kind, bool):
                value = "true"
            elif not equals:
                if not pending:
                    raise UsageError(f"flag needs an argument: {arg}")
                value = pending.pop(0)
            values[name] = _convert(name, value, kind)
        elif name in _LOGGING:
            if _LOGGING[name] and not equals and pending:
                pending.pop(0)
        else:
            raise UsageError(f"unknown flag: --{name}")
    if len(rest) != words:
        raise UsageError(f"accepts {words} arg(s), received {len(rest)}")
    return Flags(values, tuple(rest))


def _convert(name: str, value: str, kind: Kind) -> Value:
    try:
        if isinstance(kind, bool):
            return _TRUTH[value.lower()]
        if isinstance(kind, Duration):
            return duration(value)
        return int(value) if isinstance(kind, int) else value
    except (KeyError, ValueError) as error:
        raise UsageError(f'invalid argument "{value}" for "--{name}" flag') from error
