"""Metrics of ownership."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from dwcp.config import Config
from dwcp.ownership.lease import LeaseState
from dwcp.workloads.ownership import ClusterStatus


def collect(config: Config, status: ClusterStatus | None, now: float) -> Iterator[Metric]:
    """None without consensus; `now` in seconds since the epoch."""
    if status is None:
        return
    held = GaugeMetricFamily("dwcp_consensus_lease_held", "1 while this node holds its lease at the registry.")
    held.add_metric([], float(status.lease is LeaseState.HELD))
    yield held
    age = GaugeMetricFamily("dwcp_consensus_view_age_seconds", "Age of what this node knows of the cluster.")
    age.add_metric([], max(0.0, now - status.at) if status.at else float("inf"))
    yield age
    nodes = GaugeMetricFamily("dwcp_cluster_nodes", "Nodes that hold their lease.")
    nodes.add_metric([], len(status.ledger.nodes))
    yield nodes
    owned = GaugeMetricFamily(
        "dwcp_workload_owned", "1 where this node owns a workload that has `owners`, else 0.", labels=["workload"]
    )
    for name, workload in config.workloads.items():
        owner = status.ledger.facts.owners.get(name)
        if workload.owners:
            owned.add_metric([name], float(owner is not None and owner.node == config.node.name))
    yield owned
