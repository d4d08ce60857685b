"""How long things took: transfers, health checks, recoveries."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram
from structlog.contextvars import get_contextvars

from dwcp.transfer.board import TransferStatus

TRANSFER_BUCKETS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
CHECK_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 1, 5)
"""Up to the default of health.timeout."""
RECOVERY_BUCKETS = (1, 2.5, 5, 10, 30, 60, 300, 1800)
"""The first restart is a second after the fault is found; then every minute."""


class Durations:
    """An observer of the board, and of what the runner of components tells. From any thread."""

    def __init__(self) -> None:
        self._transfers = Histogram(
            "dwcp_transfer_seconds",
            "Duration of transfers that ended.",
            ["role", "state"],
            buckets=TRANSFER_BUCKETS,
            registry=None,
        )
        self._checks = Histogram(
            "dwcp_manager_health_check_seconds",
            "Duration of health checks.",
            ["component"],
            buckets=CHECK_BUCKETS,
            registry=None,
        )
        self._recoveries = Histogram(
            "dwcp_manager_recovery_seconds",
            "From the check that found a component unhealthy to the one that found it well.",
            ["component"],
            buckets=RECOVERY_BUCKETS,
            registry=None,
        )

    def register(self, registry: CollectorRegistry) -> None:
        for histogram in (self._transfers, self._checks, self._recoveries):
            registry.register(histogram)

    def began(self, status: TransferStatus) -> None:
        """Nothing is known yet."""

    def ended(self, status: TransferStatus) -> None:
        trace = get_contextvars().get("trace_id")
        exemplar = {"trace_id": trace} if trace else None
        self._transfers.labels(status.role.value, status.state.value).observe(status.seconds, exemplar)

    def checked(self, component: str, seconds: float) -> None:
        self._checks.labels(component).observe(seconds)

    def recovered(self, component: str, seconds: float) -> None:
        """`seconds` since it was found unhealthy."""
        self._recoveries.labels(component).observe(seconds)
