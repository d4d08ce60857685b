"""A collector of OpenTelemetry as far as tests need one: takes OTLP over HTTP, and keeps what it was told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf.internal.containers import RepeatedCompositeFieldContainer
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue


@dataclass(frozen=True, slots=True)
class Told:
    """A span or a record of the log. Ids are hexadecimal, empty for none."""

    node: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str = ""
    error: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)


class Collector:
    def __init__(self) -> None:
        self.spans: list[Told] = []
        self.logs: list[Told] = []
        self.takes = True
        """Anything at all."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = outer.take(self.path, body) if outer.takes else None
                self.send_response(200 if answer is not None else 404)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer or b"")))
                self.end_headers()
                self.wfile.write(answer or b"")

            def log_message(self, format: str, *args: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    @contextmanager
    def running(self) -> Iterator[Collector]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()

    def take(self, path: str, body: bytes) -> bytes | None:
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                node = _values(resource.resource.attributes)["service.instance.id"]
                for scope in resource.scope_spans:
                    self.spans += [
                        Told(
                            node,
                            span.name,
                            span.trace_id.hex(),
                            span.span_id.hex(),
                            span.parent_span_id.hex(),
                            span.status.message,
                            _values(span.attributes),
                        )
                        for span in scope.spans
                    ]
            return ExportTraceServiceResponse().SerializeToString()
        if path == "/v1/logs":
            for resource in ExportLogsServiceRequest.FromString(body).resource_logs:
                node = _values(resource.resource.attributes)["service.instance.id"]
                for scope in resource.scope_logs:
                    self.logs += [
                        Told(
                            node,
                            record.body.string_value,
                            record.trace_id.hex(),
                            record.span_id.hex(),
                            attributes=_values(record.attributes) | {"severity": record.severity_text},
                        )
                        for record in scope.log_records
                    ]
            return ExportLogsServiceResponse().SerializeToString()
        return None


def _values(pairs: RepeatedCompositeFieldContainer[KeyValue]) -> dict[str, Any]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
