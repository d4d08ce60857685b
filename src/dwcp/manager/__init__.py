"""The coordinator: starts components in order, looks after them, stops them in reverse."""

import sys


def _import_structlog_alone() -> None:
    """structlog loads rich where it is, for tracebacks in colour: 5 MB that no daemon ever uses."""
    if "structlog" not in sys.modules and "rich" not in sys.modules:
        sys.modules["rich"] = None  # type: ignore[assignment]
        try:
            import structlog  # noqa: F401
        finally:
            del sys.modules["rich"]


_import_structlog_alone()
