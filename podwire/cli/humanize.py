"""Times and durations for people: `3m12s` as kubectl writes ages, `90s` as flags take them.

In: RFC 3339 timestamps and seconds. Out: short text, or seconds from text. Pure: `now` is an argument.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

from podwire.errors import InvalidInput

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
UNKNOWN = "<unknown>"


def duration(seconds: float) -> str:
    """At most two units, coarser as it grows; kubectl's own steps."""
    total = int(seconds)
    if total < 0:
        return "0s"
    if total < 120:
        return f"{total}s"
    minutes, rest_s = divmod(total, 60)
    if minutes < 10:
        return _pair(minutes, "m", rest_s, "s")
    if minutes < 180:
        return f"{minutes}m"
    hours, rest_m = divmod(minutes, 60)
    if hours < 8:
        return _pair(hours, "h", rest_m, "m")
    if hours < 48:
        return f"{hours}h"
    days, rest_h = divmod(hours, 24)
    if days < 8:
        return _pair(days, "d", rest_h, "h")
    if days < 730:
        return f"{days}d"
    years, rest_d = divmod(days, 365)
    return _pair(years, "y", rest_d, "d") if years < 8 else f"{years}y"


def age(timestamp: str | None, now: float) -> str:
    """How long ago an RFC 3339 time was."""
    seconds = parse_time(timestamp)
    return UNKNOWN if seconds is None else duration(now - seconds)


def parse_time(timestamp: str | None) -> float | None:
    """Seconds since 1970, or None where there is no time."""
    if not timestamp:
        return None
    try:
        return datetime.fromisoformat(timestamp).timestamp()
    except ValueError:
        return None


def parse_duration(text: str) -> float:
    """Seconds from `60s`, `1m30s`, `500ms` or a bare number of seconds; raises InvalidInput."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidInput(f"{text!r} is not a duration", hint="write 30s, 2m or 1m30s")
    return float(sum(float(number) * _UNIT_S[unit] for number, unit in parts))


def stage_time(seconds: float) -> str:
    """For progress lines: `0.42 s`, `12.3 s`, `2m5s`."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    return f"{seconds:.1f} s" if seconds < 120 else duration(seconds)


def commas(items: Iterable[str], otherwise: str = "<none>") -> str:
    """Items joined by commas, as kubectl's tables have them."""
    return ",".join(items) or otherwise


def _pair(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"
