"""The document's parts about workloads and jobs. Times are whole seconds since the epoch; absent means: not yet."""

from __future__ import annotations

from typing import Any

from dwcp.config.workloads import WorkloadSection
from dwcp.dashboard.patch import Document
from dwcp.metrics.view import NodeView
from dwcp.policy.queueing import JobState
from dwcp.store.job import Job, Standing
from dwcp.workloads.coordinator import WorkloadStatus

UNENDED = (JobState.RUNNING, JobState.WAITING, JobState.PARKED)


def workloads(view: NodeView) -> Document:
    """By name."""
    status = view.workloads.status
    standings = {(standing.workload, standing.target): standing for standing in status.standings}
    return {
        name: _workload(name, workload, status)
        | {"targets": {target: _target(standings.get((name, target))) for target in workload.targets}}
        for name, workload in view.config.workloads.items()
    }


def _workload(name: str, workload: WorkloadSection, status: WorkloadStatus) -> Document:
    known = status.known.get(name)
    return {
        "source": workload.source,
        "enabled": workload.enabled,
        "on_change": workload.on_change,
        "paused": known.paused if known else False,
        **_present(
            every=workload.every,
            cron=workload.cron,
            keep=workload.keep,
            max_age=workload.max_age,
            since=_second(known.since if known else 0.0),
            asked_at=_second(known.asked_at if known else 0.0),
            next_run_at=_second(status.next_runs.get(name, 0.0)),
        ),
    }


def _target(standing: Standing | None) -> Document:
    if standing is None:
        return {}
    return _present(
        sent_at=_second(standing.sent_at),
        version=standing.version,
        verified_at=_second(standing.verified_at),
        damaged=standing.damaged,
    )


def jobs(status: WorkloadStatus) -> Document:
    """How many there are in each state, and the first of them by number; empty where none has not ended."""
    if not status.jobs:
        return {}
    counts = {state.value: status.counts[state] for state in UNENDED}
    return {"counts": counts, "first": {str(job.id): _job(job) for job in status.jobs}}


def _job(job: Job) -> Document:
    return {
        "kind": job.kind,
        "source": job.source,
        "target": job.place,
        "state": job.state.value,
        "priority": job.priority,
        **_present(
            workload=job.workload,
            attempts=job.attempts,
            reason=job.reason,
            started_at=_second(job.started_at) if job.state is JobState.RUNNING else 0,
            not_before=_second(job.not_before) if job.state is JobState.WAITING else 0,
        ),
    }


def _second(moment: float) -> int:
    return round(moment)


def _present(**values: Any) -> Document:
    """Those that are not empty."""
    return {key: value for key, value in values.items() if value}
