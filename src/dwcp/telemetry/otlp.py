"""Traces and logs by OTLP over HTTP. Whoever tells something only puts it into a queue; threads of the SDK send it.

A collector that is away costs what it was to be told, and nothing else: queues are bounded, the oldest goes first.
"""

from __future__ import annotations

import atexit
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from typing import Any

import requests
import structlog
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, LogRecordExportResult
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from dwcp.telemetry.seam import Attributes, Kind

QUEUE = 1024
"""Spans, and records of the log, that wait at most: with `LONGEST` some megabytes at the usual ten values each."""
LONGEST = 8192
"""Characters of a value: a traceback fits, a list of thousands of names is cut."""
DELAY = 1000.0
"""Milliseconds until what was told is sent."""
TIMEOUT = 2.0
"""Seconds that a collector gets for a batch, another try included: it is near, and the end of a command waits."""
SEVERITIES = {
    "debug": SeverityNumber.DEBUG,
    "info": SeverityNumber.INFO,
    "warning": SeverityNumber.WARN,
    "error": SeverityNumber.ERROR,
    "critical": SeverityNumber.FATAL,
}
OURS = frozenset({"event", "level", "timestamp", "trace_id", "span_id", "exc_info"})
"""Keys that a record has fields for."""

UNSENT = "a batch could not be made"

log = structlog.get_logger()
_propagator = TraceContextTextMapPropagator()


class OtlpTelemetry:
    """`dwcp.telemetry.Telemetry`, and the log. Ends with the process, which waits some seconds for the last batches."""

    enabled = True

    def __init__(self, endpoint: str, node: str) -> None:
        resource = Resource.create(
            {SERVICE_NAME: "dwcp", SERVICE_INSTANCE_ID: node, SERVICE_VERSION: version("dwcp")},
        )
        self._reach = _Reach(endpoint)
        base = endpoint.rstrip("/")
        self._tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._tracers.add_span_processor(
            BatchSpanProcessor(
                _Spans(self._reach, f"{base}/v1/traces"), max_queue_size=QUEUE, schedule_delay_millis=DELAY
            )
        )
        self._loggers = LoggerProvider(resource, shutdown_on_exit=False)
        self._loggers.add_log_record_processor(
            BatchLogRecordProcessor(
                _Logs(self._reach, f"{base}/v1/logs"), max_queue_size=QUEUE, schedule_delay_millis=DELAY
            )
        )
        self._tracer = self._tracers.get_tracer("dwcp")
        self._logger = self._loggers.get_logger("dwcp")
        atexit.register(self.close)

    def begin(
        self, name: str, attributes: Attributes, *, kind: Kind = "internal", parent: str | None = None
    ) -> OtlpSpan:
        context = None
        if kind == "server":
            context = _propagator.extract({"traceparent": parent} if parent else {}, Context())
        return OtlpSpan(self._tracer.start_span(name, context, SpanKind[kind.upper()], _sendable(attributes)))

    def log(self, event: Mapping[str, Any]) -> None:
        """An event of structlog, which carries the trace that this thread works on."""
        level = event.get("level", "info")
        told = {key: value for key, value in event.items() if key not in OURS and not key.startswith("_")}
        self._logger.emit(
            LogRecord(
                severity_text=level,
                severity_number=SEVERITIES.get(level, SeverityNumber.INFO),
                body=_text(event.get("event", "")),
                attributes=_sendable({**told, **_exception(event.get("exc_info"))}),
            )
        )

    def close(self) -> None:
        """Sends what waits, unless the collector is away. Blocks for some `TIMEOUT` of each kind at most."""
        self._reach.closing = True
        self._tracers.shutdown()
        self._loggers.shutdown()


class OtlpSpan:
    """`dwcp.telemetry.Span`."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        context = span.get_span_context()
        # one that is not sampled can be looked up nowhere
        self._names = (
            {
                "trace_id": trace.format_trace_id(context.trace_id),
                "span_id": trace.format_span_id(context.span_id),
            }
            if context.trace_flags.sampled
            else {}
        )

    @property
    def traceparent(self) -> str | None:
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, trace.set_span_in_context(self._span))
        return carrier.get("traceparent")

    def active(self) -> AbstractContextManager[None]:
        return self._active()

    @contextmanager
    def _active(self) -> Iterator[None]:
        with (
            trace.use_span(self._span, record_exception=False, set_status_on_exception=False),
            structlog.contextvars.bound_contextvars(**self._names),
        ):
            yield

    def end(self, attributes: Attributes, error: str = "") -> None:
        self._span.set_attributes(_sendable(attributes))
        if error:
            self._span.set_status(StatusCode.ERROR, _text(error))
        self._span.end()


def _sendable(values: Mapping[str, Any]) -> dict[str, str | bool | int | float]:
    return {key: value if _is_number(value) else _text(value) for key, value in values.items()}


def _is_number(value: Any) -> bool:
    """Of those that OTLP has."""
    return isinstance(value, float) or (isinstance(value, int) and -(2**63) <= value < 2**63)


def _exception(info: Any) -> dict[str, str]:
    """Of what structlog has as `exc_info`, by OpenTelemetry's names."""
    error = info if isinstance(info, BaseException) else (info if isinstance(info, tuple) else sys.exc_info())[1]
    if not info or error is None:
        return {}
    return {
        "exception.type": type(error).__name__,
        "exception.message": str(error),
        "exception.stacktrace": "".join(traceback.format_exception(error)),
    }


def _text(value: object) -> str:
    """Not too much of it, and without the bytes of names that are no UTF-8: a single one would keep a whole batch from
    being sent."""
    return str(value)[:LONGEST].encode("utf-8", "backslashreplace").decode()


class _Reach:
    """Whether the collector takes what it is told, as both exporters of a node find out."""

    def __init__(self, endpoint: str) -> None:
        self.closing = False
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._away = False

    @property
    def given_up(self) -> bool:
        """The process ends, and would wait for nothing."""
        return self.closing and self._away

    def tell(self, reason: str) -> None:
        """Why a batch did not arrive; empty where it did."""
        away = bool(reason)
        with self._lock:
            changed, self._away = self._away != away, away
        if changed and away:
            log.warning(
                "traces and logs are lost: the telemetry collector does not take them",
                endpoint=self._endpoint,
                reason=reason,
            )
        elif changed:
            log.info("the telemetry collector is there again", endpoint=self._endpoint)


class _Session(requests.Session):
    """Remembers what the last request came to."""

    def __init__(self) -> None:
        super().__init__()
        self.reason = UNSENT

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        try:
            response = super().send(request, **kwargs)
        except requests.RequestException as error:
            self.reason = str(error)
            raise
        self.reason = f"{response.status_code} {response.reason}"
        return response


class _Spans(OTLPSpanExporter):
    def __init__(self, reach: _Reach, endpoint: str) -> None:
        self._http = _Session()
        super().__init__(endpoint=endpoint, timeout=TIMEOUT, session=self._http)
        self._reach = reach

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._reach.given_up:
            return SpanExportResult.FAILURE
        self._http.reason = UNSENT
        result = super().export(spans)
        self._reach.tell("" if result is SpanExportResult.SUCCESS else self._http.reason)
        return result


class _Logs(OTLPLogExporter):
    def __init__(self, reach: _Reach, endpoint: str) -> None:
        self._http = _Session()
        super().__init__(endpoint=endpoint, timeout=TIMEOUT, session=self._http)
        self._reach = reach

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        if self._reach.given_up:
            return LogRecordExportResult.FAILURE
        self._http.reason = UNSENT
        result = super().export(batch)
        self._reach.tell("" if result is LogRecordExportResult.SUCCESS else self._http.reason)
        return result
