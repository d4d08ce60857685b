"""Writes docs/metrics.md: `python -m dwcp.metrics.reference > docs/metrics.md`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry

from dwcp.config import Config
from dwcp.config.workloads import WorkloadSection
from dwcp.errors import NotFoundError
from dwcp.forecast.forecaster import Forecast, Score
from dwcp.metrics.collector import NodeCollector
from dwcp.metrics.durations import Durations
from dwcp.metrics.http import HttpMetrics
from dwcp.metrics.view import SendingLimit
from dwcp.ownership.decide import Facts, Owner
from dwcp.policy.queueing import JobState
from dwcp.prediction.predictor import LinkView
from dwcp.registry.interface import Registry
from dwcp.store.fences import FenceRecord
from dwcp.store.job import Known
from dwcp.store.links import Sample
from dwcp.store.recorder import untold
from dwcp.supervise.breaker import BreakerStatus
from dwcp.supervise.health import ComponentHealth, NodeHealth, Status, node_health
from dwcp.supervise.memory import MemoryStatus
from dwcp.supervise.recovery import RecoveryCounts
from dwcp.transfer.board import Board, Role, TransferStatus
from dwcp.transfer.counters import TransportCounters
from dwcp.transfer.fencing import Fences
from dwcp.transfer.node import Node
from dwcp.transfer.pool import PoolStatus
from dwcp.transfer.shared_state import PeerView, SharedState, SyncStatus
from dwcp.workloads.coordinator import Workloads, WorkloadStatus
from dwcp.workloads.ledger import Ledger
from dwcp.workloads.ownership import ClusterStatus, Ownership
from dwcp.workloads.shared import SharedRecord

_HEAD = """# Metrics

Generated from the collectors by `python -m dwcp.metrics.reference`. Scrape `/metrics`; besides these there are the
usual `process_*` and `python_*`.

| metric | type | labels | meaning |
| --- | --- | --- | --- |
"""


class _ExampleWorkloads(Workloads):
    """One that was just declared."""

    @property
    def status(self) -> WorkloadStatus:
        return WorkloadStatus({"db": Known("db", 0.0, 0.0, 0.0, paused=False)}, [], ended={JobState.DONE: 0})


class _ExampleOwnership(Ownership):
    @property
    def status(self) -> ClusterStatus:
        return ClusterStatus(ledger=Ledger(Facts(owners={"db": Owner("node2", 1)})))


class _ExampleState(SharedState):
    """One with a peer."""

    @property
    def status(self) -> SyncStatus:
        peer = PeerView("node2", "", 0.0, stale=False, takes_part=True, clock_offset=0.0, error="")
        return SyncStatus(enabled=True, peers=(peer,), refused={"clock": 0})


class _Example:
    """A node with one of everything, so that every metric shows its labels."""

    config = Config.model_validate(
        {
            "node": {"name": "node1"},
            "storage": {"state_dir": str(Path(tempfile.gettempdir()) / "dwcp")},
            "workloads": {
                "db": {"source": "/srv/db", "targets": ["node2:inbox/db"], "max_age": "1h", "owners": ["node1"]}
            },
        }
    )
    board = Board()
    fingerprint = ""
    addresses: Mapping[str, str] = {}

    @property
    def workloads(self) -> Workloads:
        return _ExampleWorkloads(lambda: self.config, self._no_node, tuple, untold)

    @property
    def ownership(self) -> Ownership | None:
        return _ExampleOwnership(
            lambda: self.config,
            self._no_registry,
            Fences(Path(self.config.storage.state_dir)),
            "",
            lambda: "",
            untold,
            self._no_shared,
        )

    async def _no_shared(self, shared: Mapping[str, SharedRecord]) -> None:
        """Nothing is declared for all nodes."""

    def _no_registry(self, cluster: str, seconds: float) -> Registry:
        raise NotFoundError("an example has no registry")

    def fences(self) -> list[FenceRecord]:
        return []

    async def unfence(self, key: str) -> None:
        """Nothing is fenced."""

    @property
    def sync(self) -> SharedState:
        return _ExampleState(lambda: self.config)

    def _no_node(self) -> Node:
        raise NotFoundError("an example has no node")

    async def add_workload(self, name: str, workload: WorkloadSection) -> None:
        """Nothing is added."""

    async def remove_workload(self, name: str) -> None:
        """Nothing is removed."""

    def health(self) -> NodeHealth:
        component = ComponentHealth("transport", Status.HEALTHY, "", 0.0, 0.0, recovering=False, failed=False)
        return node_health([component], [], 0.0)

    def breakers(self) -> Mapping[str, BreakerStatus]:
        return {"node2": BreakerStatus("node2", "closed", 0, 0, 0.0, 0, "", "", 0.0)}

    def reset_breakers(self, peer: str | None) -> None:
        """Nothing to reset."""

    def recoveries(self) -> Mapping[str, RecoveryCounts]:
        return {"transport": RecoveryCounts()}

    def transport(self) -> TransportCounters:
        return TransportCounters(latency_seconds={"node2": 0.0})

    def sockets(self) -> tuple[Mapping[str, str], list[str]]:
        return {}, []

    def links(self) -> Mapping[str, LinkView]:
        forecast = Forecast(0.0, 300.0, 0.0, 0.0, 0.0, 0.95, "lstm", 0)
        return {"": LinkView(forecast, Score(models={"lstm": 1.0}))}

    def link_samples(self, peer: str) -> list[Sample]:
        return []

    def memory(self) -> MemoryStatus:
        return MemoryStatus()

    def buffers(self) -> PoolStatus:
        return PoolStatus()

    def throughput(self) -> tuple[float, float]:
        return 0.0, 0.0

    def limit(self) -> SendingLimit:
        return SendingLimit(None, by_operator=False)

    async def set_limit(self, rate: str) -> None:
        """Nothing to limit."""


def reference() -> str:
    """The page."""
    registry = CollectorRegistry()
    with HttpMetrics(registry).measure("GET", "/health"):
        """Only what was seen once shows its labels."""
    durations = Durations()
    durations.register(registry)
    durations.ended(TransferStatus("", Role.SEND, "node2", ""))
    durations.checked("transport", 0.0)
    durations.recovered("transport", 0.0)
    rows = []
    for metric in [*NodeCollector(_Example()).collect(), *registry.collect()]:
        labels = ", ".join(sorted({key for sample in metric.samples for key in sample.labels} - {"le"}))
        suffix = "_total" if metric.type == "counter" else ""
        rows.append(f"| `{metric.name}{suffix}` | {metric.type} | {labels} | {metric.documentation} |")
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
