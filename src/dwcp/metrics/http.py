"""Rate, errors and duration of HTTP requests, by route and not by path, so that labels stay few."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram


@dataclass(slots=True)
class Measured:
    status: int = 500


class HttpMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["method", "route", "status"]
        self._requests = Counter("dwcp_http_requests_total", "HTTP requests answered.", labels, registry=registry)
        self._seconds = Histogram(
            "dwcp_http_request_seconds",
            "Time to answer an HTTP request.",
            ["method", "route"],
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5),
            registry=registry,
        )

    @contextmanager
    def measure(self, method: str, route: str) -> Iterator[Measured]:
        """Set `status` before the block ends."""
        began = time.perf_counter()
        measured = Measured()
        try:
            yield measured
        finally:
            self._requests.labels(method, route, str(measured.status)).inc()
            self._seconds.labels(method, route).observe(time.perf_counter() - began)
