"""Metrics of workloads and jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from dwcp.config import Config
from dwcp.policy.queueing import JobState
from dwcp.workloads.coordinator import WorkloadStatus


def collect(config: Config, status: WorkloadStatus, runs: Callable[[str], bool], now: float) -> Iterator[Metric]:
    """`runs`: whether this node runs a workload, and not another owner of it; `now` in seconds since the epoch."""
    jobs = GaugeMetricFamily("dwcp_jobs", "Jobs that have not ended, by state.", labels=["state"])
    for state in (JobState.WAITING, JobState.RUNNING, JobState.PARKED):
        jobs.add_metric([state], status.counts[state])
    yield jobs
    ended = CounterMetricFamily("dwcp_jobs_ended", "Jobs that were done, parked or cancelled.", labels=["state"])
    for state, count in status.ended.items():
        ended.add_metric([state], count)
    yield ended
    place = ["workload", "target"]
    age = GaugeMetricFamily(
        "dwcp_workload_age_seconds",
        "Age of the newest complete state at a target.",
        labels=place,
    )
    damaged = GaugeMetricFamily(
        "dwcp_workload_damaged_files",
        "Stored files that the newest check could not mend.",
        labels=place,
    )
    verified = GaugeMetricFamily(
        "dwcp_workload_verified_timestamp_seconds",
        "When stored versions were last checked, or 0.",
        labels=place,
    )
    max_age = GaugeMetricFamily(
        "dwcp_workload_max_age_seconds", "Age from which on a state counts as stale (max_age).", labels=["workload"]
    )
    paused = GaugeMetricFamily("dwcp_workload_paused", "1 where it does not run by itself.", labels=["workload"])
    standings = {(standing.workload, standing.target): standing for standing in status.standings}
    for name, workload in config.workloads.items():
        known = status.known.get(name)
        if known is None or not runs(name):
            # declared since the newest look, or its owner tells of it
            continue
        paused.add_metric([name], float(known.paused or not workload.enabled))
        if workload.max_age is not None:
            max_age.add_metric([name], workload.max_age)
        for target in workload.targets:
            standing = standings.get((name, target))
            sent_at = standing.sent_at if standing is not None and standing.sent_at else known.since
            age.add_metric([name, target], max(0.0, now - sent_at))
            damaged.add_metric([name, target], standing.damaged if standing is not None else 0)
            verified.add_metric([name, target], standing.verified_at if standing is not None else 0)
    yield from (age, max_age, damaged, verified, paused)
