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


def configure(level: str, form: str) -> None:
    """`level` debug, info, warning or error; `form` auto, console or json. Logs go to standard error. May be called
    again: the level changes at once."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
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
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
