"""Collects on its interval what cannot be read from one look: rates."""

from __future__ import annotations

import time
from collections.abc import Callable

from dwcp.manager.component import Background
from dwcp.supervise.health import HEALTHY, Health, Status
from dwcp.transfer.counters import TransportCounters

LATE = 3
"""Intervals without a collection before the component is degraded."""


class MetricsComponent(Background):
    """The `metrics` component."""

    name = "metrics"

    def __init__(self, read: Callable[[], TransportCounters], interval: Callable[[], float]) -> None:
        """`interval` in seconds, asked anew each time so that a reload counts at once."""
        self._read = read
        self._interval = interval
        self._last: tuple[float, int, int] | None = None
        self._rates = (0.0, 0.0)

    def throughput(self) -> tuple[float, float]:
        """Bits per second (sent, received) over the newest interval."""
        return self._rates

    async def start(self) -> None:
        self._last = None
        self._collect(time.monotonic())
        await super().start()

    async def check(self) -> Health:
        trouble = self._trouble()
        if trouble:
            return Health(Status.UNHEALTHY, f"metrics are not collected any more: {trouble}")
        age = time.monotonic() - (self._last[0] if self._last else 0.0)
        if age > LATE * self._interval():
            return Health(Status.DEGRADED, f"metrics collection delayed: the newest is {age:.0f} s old")
        return HEALTHY

    async def _run(self) -> None:
        while True:
            await self._sleep(self._interval())
            self._collect(time.monotonic())

    def _collect(self, now: float) -> None:
        counters = self._read()
        if self._last is not None and now > self._last[0]:
            before, sent, received = self._last
            seconds = now - before
            self._rates = (
                max(0.0, (counters.bytes_sent - sent) * 8 / seconds),
                max(0.0, (counters.bytes_received - received) * 8 / seconds),
            )
        self._last = (now, counters.bytes_sent, counters.bytes_received)
