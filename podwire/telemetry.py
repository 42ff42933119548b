"""Logs: one line per event on stderr, JSON unless that is a terminal, with the request id of the call being served.

In: `logger(__name__).info("event", key=value)`. Out: lines that cannot lie about themselves: control and direction characters are
escaped, long values cut, values under names of secrets hidden. `podwire.rpc` sets the request id; anything else that belongs to a
whole task is bound with `structlog.contextvars.bind_contextvars(node=…)`.
"""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from typing import TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

MAX_VALUE = 2_000  # characters of one value
_SECRET_NAMES = frozenset({"token", "key", "key_pem", "secret", "password", "authorization", "stdin"})

request_id: ContextVar[str] = ContextVar("podwire_request_id", default="")
"""The id of the call being served, or of the one that caused this; empty outside of any."""


def setup(component: str, *, level: str = "info", stream: TextIO | None = None) -> None:
    """Sends this process's logs, the standard library's included, to a stream (stderr); each line names the component."""
    out = stream or sys.stderr
    structlog.contextvars.bind_contextvars(component=component)
    lowest = logging.getLevelNamesMapping()[level.upper()]
    tail: Processor = structlog.dev.ConsoleRenderer() if out.isatty() else structlog.processors.JSONRenderer()
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_request_id,
        structlog.processors.format_exc_info,
        clean,
    ]
    structlog.configure(
        processors=[*shared, tail],
        wrapper_class=structlog.make_filtering_bound_logger(lowest),
        logger_factory=structlog.WriteLoggerFactory(out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, tail]
        )
    )
    logging.basicConfig(handlers=[handler], level=max(lowest, logging.WARNING), force=True)


def logger(name: str) -> FilteringBoundLogger:
    """A logger. Before `setup`, as in the command line, only warnings come out."""
    if not structlog.is_configured():
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.format_exc_info,
                clean,
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        )
    bound: FilteringBoundLogger = structlog.get_logger(module=name)
    return bound


def clean(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Makes values safe to print: secrets hidden, control characters escaped, length capped."""
    return {name: _clean_value(name, value) for name, value in event.items()}


def escape(text: str) -> str:
    """The text with everything that could move a cursor, break a line or turn its direction spelled out."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _clean_value(name: str, value: object) -> object:
    if name in _SECRET_NAMES:
        return "***"
    if value is None or isinstance(value, bool | int | float):
        return value
    if name == "exception" and isinstance(value, str):  # a traceback keeps its lines; JSON escapes them
        return "\n".join(escape(line) for line in value.split("\n"))[-4 * MAX_VALUE :]
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean_value("", one) for one in list(value)[:100]]
    if isinstance(value, dict):
        return {escape(str(key)): _clean_value(str(key), one) for key, one in list(value.items())[:100]}
    text = escape(str(value))
    return text if len(text) <= MAX_VALUE else text[:MAX_VALUE] + "…"


def _add_request_id(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if current := request_id.get():
        event.setdefault("request_id", current)
    return event
