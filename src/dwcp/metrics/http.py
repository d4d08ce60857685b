"""Rate, errors and duration of HTTP requests, by route and not by path, so that labels stay few."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from dwcp.metrics.requests import BUCKETS, Count, Key, merge

_BOUNDS = [*map(floatToGoString, BUCKETS), "+Inf"]


@dataclass(slots=True)
class Measured:
    status: int = 500


class HttpMetrics(Collector):
    def __init__(self, registry: CollectorRegistry) -> None:
        self._own: dict[Key, Count] = {}
        self._reported: Mapping[Key, Count] = {}
        registry.register(self)

    @contextmanager
    def measure(self, method: str, route: str) -> Iterator[Measured]:
        """Set `status` before the block ends."""
        began = time.perf_counter()
        measured = Measured()
        try:
            yield measured
        finally:
            self._own.setdefault((method, route, measured.status), Count()).add(time.perf_counter() - began)

    def report(self, totals: Mapping[Key, Count]) -> None:
        """What another process has answered since it began."""
        self._reported = totals

    def keep(self) -> None:
        """That process has ended; the next one begins at zero."""
        merge(self._own, self._reported)
        self._reported = {}

    def collect(self) -> Iterator[Metric]:
        requests: dict[Key, Count] = {}
        merge(requests, self._own)
        merge(requests, self._reported)
        answered = CounterMetricFamily(
            "dwcp_http_requests", "HTTP requests answered.", labels=["method", "route", "status"]
        )
        by_route: dict[Key, Count] = {}
        for (method, route, status), count in requests.items():
            answered.add_metric([method, route, str(status)], sum(count.buckets))
            merge(by_route, {(method, route, 0): count})
        yield answered
        seconds = HistogramMetricFamily(
            "dwcp_http_request_seconds", "Time to answer an HTTP request.", labels=["method", "route"]
        )
        for (method, route, _), count in by_route.items():
            cumulative = zip(_BOUNDS, map(float, accumulate(count.buckets)), strict=True)
            seconds.add_metric([method, route], list(cumulative), count.seconds)
        yield seconds
