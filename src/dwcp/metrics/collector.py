"""Every metric that is read from the node. Names of the runbook are kept to the letter."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dwcp.metrics import cluster, sync, workloads
from dwcp.metrics.durations import Durations
from dwcp.metrics.view import NodeView
from dwcp.supervise.health import Status
from dwcp.transfer.board import Role

_VERSION = version("dwcp")
"""Once: looking it up reads files."""
_BREAKER = {"closed": 0, "half-open": 1, "open": 2}


def create_registry(view: NodeView, durations: Durations) -> CollectorRegistry:
    """The node's own metrics, and those of its process and interpreter."""
    registry = CollectorRegistry()
    registry.register(NodeCollector(view))
    durations.register(registry)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class NodeCollector(Collector):
    def __init__(self, view: NodeView) -> None:
        self._view = view

    def describe(self) -> list[Metric]:
        """Registration must not ask a node that is not up yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        yield from self._manager()
        yield from self._memory()
        yield from self._transport()
        yield from self._transfers()
        yield from self._links()
        yield from workloads.collect(
            self._view.config, self._view.workloads.status, self._view.workloads.runs, time.time()
        )
        ownership = self._view.ownership
        yield from cluster.collect(self._view.config, ownership.status if ownership is not None else None, time.time())
        yield from sync.collect(self._view.sync.status)

    def _links(self) -> Iterator[Metric]:
        rate = GaugeMetricFamily(
            "dwcp_prediction_rate_bits_per_second",
            "Forecast of the mean rate of the link over prediction_horizon: median, and bounds of the interval.",
            labels=["peer", "bound"],
        )
        error = GaugeMetricFamily(
            "dwcp_prediction_error_bits_per_second",
            "Mean absolute error of the forecasts whose time has come, recent ones weighing more, beside that of the "
            "last value.",
            labels=["peer", "of"],
        )
        outcomes = CounterMetricFamily(
            "dwcp_prediction_outcomes", "Forecasts whose time has come.", labels=["peer", "covered"]
        )
        model = GaugeMetricFamily(
            "dwcp_prediction_model_error_ratio",
            "Error of each model relative to the last value's, by which auto chooses.",
            labels=["peer", "model"],
        )
        samples = GaugeMetricFamily(
            "dwcp_prediction_measurements", "Measurements that the newest forecast was made from.", labels=["peer"]
        )
        for peer, link in self._view.links().items():
            if link.forecast is not None:
                rate.add_metric([peer, "median"], link.forecast.rate)
                rate.add_metric([peer, "low"], link.forecast.low)
                rate.add_metric([peer, "high"], link.forecast.high)
                samples.add_metric([peer], link.forecast.measurements)
            error.add_metric([peer, "forecast"], link.score.error)
            error.add_metric([peer, "last value"], link.score.last_error)
            outcomes.add_metric([peer, "yes"], link.score.covered)
            outcomes.add_metric([peer, "no"], link.score.outcomes - link.score.covered)
            for name, ratio in link.score.models.items():
                model.add_metric([peer, name], ratio)
        yield from (rate, error, outcomes, model, samples)

    def _manager(self) -> Iterator[Metric]:
        view = self._view
        health = view.health()
        build = GaugeMetricFamily("dwcp_build_info", "Version of this program.", labels=["version", "node"])
        build.add_metric([_VERSION, view.config.node.name], 1)
        yield build
        yield GaugeMetricFamily("dwcp_manager_uptime_seconds", "Time since the manager started.", health.uptime_seconds)
        component = GaugeMetricFamily(
            "dwcp_manager_component_healthy", "1 when healthy, 0.5 when degraded, 0 when not.", labels=["component"]
        )
        check = GaugeMetricFamily(
            "dwcp_manager_component_check_seconds", "Duration of the newest health check.", labels=["component"]
        )
        for name, state in health.components.items():
            component.add_metric([name], {Status.HEALTHY: 1.0, Status.DEGRADED: 0.5}.get(state.status, 0.0))
            check.add_metric([name], state.check_seconds)
        yield component
        yield check
        yield GaugeMetricFamily(
            "dwcp_manager_circuit_breaker_state",
            "The worst circuit breaker: 0 closed, 1 half-open, 2 open.",
            _BREAKER[health.circuit_breaker],
        )
        breakers = view.breakers()
        failures = GaugeMetricFamily(
            "dwcp_manager_circuit_breaker_failures", "Failures in a row, by peer.", labels=["peer"]
        )
        trips = CounterMetricFamily("dwcp_manager_circuit_breaker_trips", "Times opened, by peer.", labels=["peer"])
        peer_state = GaugeMetricFamily(
            "dwcp_manager_peer_circuit_breaker_state", "0 closed, 1 half-open, 2 open.", labels=["peer"]
        )
        for name, breaker in breakers.items():
            failures.add_metric([name], breaker.failures)
            trips.add_metric([name], breaker.trips)
            peer_state.add_metric([name], _BREAKER[breaker.state])
        yield from (failures, trips, peer_state)
        attempts = CounterMetricFamily("dwcp_manager_recovery_attempts", "Restarts begun.", labels=["component"])
        success = CounterMetricFamily("dwcp_manager_recovery_success", "Restarts that helped.", labels=["component"])
        for name, counts in view.recoveries().items():
            attempts.add_metric([name], counts.attempts)
            success.add_metric([name], counts.successes)
        yield from (attempts, success)

    def _memory(self) -> Iterator[Metric]:
        memory, buffers = self._view.memory(), self._view.buffers()
        yield GaugeMetricFamily("dwcp_manager_memory_limit_bytes", "The soft budget, memory.limit.", memory.limit)
        yield GaugeMetricFamily(
            "dwcp_manager_memory_resident_bytes", "Resident memory as the budget saw it last.", memory.resident
        )
        yield GaugeMetricFamily(
            "dwcp_manager_memory_shrink_level", "How many times transfer buffers are halved now.", memory.level
        )
        yield CounterMetricFamily(
            "dwcp_manager_memory_shrinks", "Times that transfer buffers were halved.", memory.shrinks
        )
        yield GaugeMetricFamily("dwcp_transport_buffers_limit_bytes", "What transfer buffers may take.", buffers.limit)
        taken = GaugeMetricFamily("dwcp_transport_buffers_bytes", "What transfer buffers take.", labels=["state"])
        taken.add_metric(["idle"], buffers.idle)
        taken.add_metric(["in_use"], buffers.allocated - buffers.idle)
        yield taken

    def _transport(self) -> Iterator[Metric]:
        counters = self._view.transport()
        yield GaugeMetricFamily("dwcp_transport_active_streams", "Data connections in use.", counters.active_streams)
        yield GaugeMetricFamily("dwcp_transport_rdma_streams", "Those of them over RDMA.", counters.rdma_streams)
        yield GaugeMetricFamily("dwcp_transport_sessions", "Control connections in use.", counters.sessions)
        yield CounterMetricFamily(
            "dwcp_transport_bytes_sent", "TCP payload sent, TLS and retransmissions included.", counters.bytes_sent
        )
        yield CounterMetricFamily("dwcp_transport_bytes_received", "TCP payload received.", counters.bytes_received)
        latency = GaugeMetricFamily("dwcp_transport_latency_milliseconds", "Round trip to each peer.", labels=["peer"])
        for peer, seconds in counters.latency_seconds.items():
            latency.add_metric([peer], seconds * 1000)
        yield latency
        throughput = GaugeMetricFamily(
            "dwcp_transport_throughput_bytes_per_second", "Over the newest collection interval.", labels=["direction"]
        )
        for direction, rate in zip(("sent", "received"), self._view.throughput(), strict=True):
            throughput.add_metric([direction], rate / 8)
        yield throughput
        errors = CounterMetricFamily("dwcp_transport_errors", "Faults met and mended, by kind.", labels=["kind"])
        errors.add_metric(["frame_corrupt"], counters.frames_corrupt)
        errors.add_metric(["block_resent"], counters.blocks_resent)
        errors.add_metric(["connection_refused"], counters.refused)
        errors.add_metric(["rdma"], counters.rdma_failures)
        yield errors
        files = CounterMetricFamily("dwcp_transport_files", "Files with changed content.", labels=["direction"])
        files.add_metric(["sent"], counters.files_sent)
        files.add_metric(["received"], counters.files_received)
        yield files

    def _transfers(self) -> Iterator[Metric]:
        board = self._view.board
        running = Counter(status.role for status in board.live())
        live = GaugeMetricFamily("dwcp_transfers_running", "Transfers under way.", labels=["role"])
        for role in Role:
            live.add_metric([role], running[role])
        yield live
        ended = CounterMetricFamily("dwcp_transfers_ended", "Transfers that ended, by outcome.", labels=["state"])
        for state, count in board.ended().items():
            ended.add_metric([state], count)
        yield ended
