"""All that the rest of the program sees of OpenTelemetry, which comes with the extra `otel` and is imported when it is
enabled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

from structlog.typing import Processor

from dwcp.config.model import TelemetrySection

if TYPE_CHECKING:
    from dwcp.telemetry.otlp import OtlpTelemetry

Kind = Literal["internal", "client", "server"]
Attributes = Mapping[str, str | int | float]
SILENT = ("opentelemetry", "urllib3")
"""Loggers of the export itself: what they say of a collector that is away would be more to be sent to it."""


class Span(Protocol):
    """Something that takes time. Any thread may work on it."""

    @property
    def traceparent(self) -> str | None:
        """As W3C's Trace Context writes it; None where nothing is traced."""
        ...

    def active(self) -> AbstractContextManager[None]:
        """This thread works on it meanwhile: what it logs carries `trace_id` and `span_id`."""
        ...

    def end(self, attributes: Attributes, error: str = "") -> None:
        """`error` is empty where it went well."""
        ...


class Telemetry(Protocol):
    """Of one node."""

    @property
    def enabled(self) -> bool: ...

    def begin(self, name: str, attributes: Attributes, *, kind: Kind = "internal", parent: str | None = None) -> Span:
        """A span that begins now, a child of what this thread works on; one of kind server is for a peer, and a child
        of `parent`, the peer's `traceparent`. A malformed one is ignored."""
        ...


class _NoSpan:
    traceparent = None

    def active(self) -> AbstractContextManager[None]:
        return nullcontext()

    def end(self, attributes: Attributes, error: str = "") -> None:
        """Nobody wants to know."""


class _NoTelemetry:
    enabled = False

    def begin(self, name: str, attributes: Attributes, *, kind: Kind = "internal", parent: str | None = None) -> Span:
        return NO_SPAN


NO_SPAN = _NoSpan()
_NO_TELEMETRY = _NoTelemetry()


@contextmanager
def spanning(telemetry: Telemetry, name: str, attributes: Attributes, *, kind: Kind = "internal") -> Iterator[None]:
    """A span as long as the block, which works on it; what the block raises is its error."""
    span, error = telemetry.begin(name, attributes, kind=kind), "interrupted"
    try:
        with span.active():
            yield
        error = ""
    except Exception as why:
        error = str(why) or type(why).__name__
        raise
    finally:
        span.end({}, error)


def telemetry_of(section: TelemetrySection, node: str) -> Telemetry:
    """The one of this process for a node; it ends with the process."""
    return _otlp(section.endpoint, node) if section.enabled else _NO_TELEMETRY


def shipping(section: TelemetrySection, node: str) -> Processor | None:
    """A processor of structlog that sends every event to the collector too; None where that is off."""
    if not section.enabled:
        return None

    def ship(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        record = event.get("_record")
        if record is None or not record.name.startswith(SILENT):
            _otlp(section.endpoint, node).log(event)
        return event

    return ship


@cache
def _otlp(endpoint: str, node: str) -> OtlpTelemetry:
    from dwcp.telemetry.otlp import OtlpTelemetry

    return OtlpTelemetry(endpoint, node)
