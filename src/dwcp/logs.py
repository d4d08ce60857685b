"""Logging: structured, for people on a terminal, as JSON for journald and whoever collects it."""

from __future__ import annotations

import logging
import sys

import structlog

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

_level = "info"


def level() -> str:
    """What is logged now."""
    return _level


def set_level(level: str) -> None:
    """Of this process, at once; everything else stays. `level` is one of LEVELS."""
    global _level
    _level = level
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]))


def configure(level: str, form: str, ship: structlog.typing.Processor | None = None) -> None:
    """`level` debug, info, warning or error; `form` auto, console or json. Logs go to standard error, and to `ship`
    where it is given. May be called again: the level changes at once."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if ship is not None:
        shared.append(ship)
    last: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if console
        else structlog.processors.JSONRenderer(default=str)
    )
    exceptions = [] if console else [structlog.processors.dict_tracebacks]
    structlog.configure(
        processors=[*shared, *exceptions, last],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    set_level(level)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last]
        )
    )
    handler.addFilter(_NotAgain())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


class _NotAgain(logging.Filter):
    """OpenTelemetry says of each batch that a collector does not take it, which `dwcp.telemetry` says once with the
    reason; and of each span and record that it finds no place in the queue, of which the first passes."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("opentelemetry.exporter"):
            return False
        if record.name != "opentelemetry.sdk._shared_internal":
            return True
        first = record.msg not in self._passed
        self._passed.add(record.msg)
        return first
