"""Logs: one line per event on stderr, JSON unless that is a terminal, with the request id of the call being served.

In: `logger(__name__).info("event", key=value)`. Out: lines that cannot lie about themselves: control and direction characters are
escaped, long values cut, values under names of secrets hidden. `podwire.rpc` sets the request id; anything else that belongs to a
whole task is bound with `structlog.contextvars.bind_contextvars(node=…)`.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TextIO

if (
    TYPE_CHECKING
):  # structlog takes a tenth of a second to load: the command line should not pay for lines it does not write
    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

MAX_VALUE = 2_000  # characters of one value
_SECRET_NAMES = frozenset({"token", "key", "key_pem", "secret", "password", "authorization", "stdin"})

request_id: ContextVar[str] = ContextVar("podwire_request_id", default="")
"""The id of the call being served, or of the one that caused this; empty outside of any."""


def setup(component: str, *, level: str = "info", stream: TextIO | None = None) -> None:
    """Sends this process's logs, the standard library's included, to a stream (stderr); each line names the component."""
    import structlog  # noqa: PLC0415 - see above

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


class Logger:
    """Writes events of one module. Before `setup`, as in the command line, only warnings come out."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._bound: FilteringBoundLogger | None = None

    def debug(self, event: str, **values: Any) -> None:
        """For whoever looks for a fault."""
        self._write("debug", event, values)

    def info(self, event: str, **values: Any) -> None:
        """For whoever wants to know what happened."""
        self._write("info", event, values)

    def warning(self, event: str, **values: Any) -> None:
        """Something is weaker than it should be."""
        self._write("warning", event, values)

    def error(self, event: str, **values: Any) -> None:
        """Something failed; `exc_info=error` adds its traceback."""
        self._write("error", event, values)

    def exception(self, event: str, **values: Any) -> None:
        """As `error`, with the traceback of the exception being handled."""
        self._write("exception", event, values)

    def _write(self, method: str, event: str, values: dict[str, Any]) -> None:
        with suppress(OSError):  # on a full disk there is no log, and everything else goes on
            getattr(self._structlog(), method)(event, **values)

    def _structlog(self) -> FilteringBoundLogger:
        if self._bound is None:
            import structlog  # noqa: PLC0415 - see above

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
            self._bound = structlog.get_logger(module=self._module)
        return self._bound


def logger(name: str) -> Logger:
    """The logger of a module."""
    return Logger(name)


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
