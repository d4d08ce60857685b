"""From the configuration and what the queue remembers to the jobs that are due, and the time of the next look."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from dwcp.config import Config
from dwcp.config.workloads import WorkloadSection
from dwcp.errors import NotFoundError, UsageError
from dwcp.policy.queueing import Limits, Queued
from dwcp.policy.schedule import Schedule
from dwcp.store.job import Job, Known, NewJob, Settings


@dataclass(frozen=True, slots=True)
class Due:
    """`asked`: (workload, kind) of what is due now; `next_at`: when something will be (wall clock), None for never."""

    asked: list[tuple[str, str]]
    next_at: float | None


def due(config: Config, known: Mapping[str, Known], changed: Collection[str], now: float) -> Due:
    """`changed`: workloads whose source has changed and rested."""
    asked: list[tuple[str, str]] = []
    later: list[float] = []
    for name, workload in config.workloads.items():
        remembered = known.get(name)
        if remembered is None or remembered.paused or not workload.enabled:
            continue
        for kind, moment in _moments(workload, remembered):
            if moment <= now:
                asked.append((name, kind))
            else:
                later.append(moment)
        if name in changed and (name, "send") not in asked:
            asked.append((name, "send"))
    return Due(asked, min(later, default=None))


def next_runs(config: Config, known: Mapping[str, Known]) -> dict[str, float]:
    """When the clock has each workload run next (wall clock); in the past where it is due. A change of its source may
    do so before. Those that wait for a change, or for a request, are not among them."""
    moments = {name: _next_run(workload, known.get(name)) for name, workload in config.workloads.items()}
    return {name: moment for name, moment in moments.items() if moment is not None}


def _next_run(workload: WorkloadSection, known: Known | None) -> float | None:
    if known is None or known.paused or not workload.enabled:
        return None
    return Schedule(workload.every, workload.cron).next_due(known.since, known.asked_at or None)


def _moments(workload: WorkloadSection, known: Known) -> Iterator[tuple[str, float]]:
    runs = _next_run(workload, known)
    if runs is not None:
        yield "send", runs
    if workload.verify_every is not None:
        yield "verify", (known.verify_asked_at or known.since) + workload.verify_every


def jobs_of(name: str, workload: WorkloadSection, kind: str) -> list[NewJob]:
    """One for each target."""
    settings = Settings(
        delete=workload.delete,
        checksum=workload.checksum,
        keep=workload.keep,
        bandwidth=workload.bandwidth,
        verify_rate=workload.verify_rate,
        before=workload.before,
        after=workload.after,
        hook_timeout=workload.hook_timeout,
    )
    return [
        NewJob(name, kind, *split_target(target), workload.source, settings, workload.priority)
        for target in workload.targets
    ]


def targets_of(config: Config) -> dict[str, list[str]]:
    """By workload."""
    return {name: workload.targets for name, workload in config.workloads.items()}


def split_target(target: str) -> tuple[str, str]:
    """(peer, EXPORT/PATH)."""
    peer, _, path = target.partition(":")
    return peer, path


def workload_of(config: Config, name: str) -> WorkloadSection:
    """Raises NotFoundError."""
    try:
        return config.workloads[name]
    except KeyError:
        names = ", ".join(sorted(config.workloads)) or "none"
        raise NotFoundError(f"no workload {name!r}; there are: {names}; `dwcp workload add` adds one") from None


def check_kind(workload: WorkloadSection, name: str, kind: str) -> None:
    """Raises UsageError for what the workload cannot do."""
    if kind == "verify" and not workload.keep:
        raise UsageError(f"workload {name!r} keeps no versions that could be verified; set its `keep`")


def queued(job: Job) -> Queued:
    """What the order of jobs is decided by. Jobs of one workload at one target are never at it together, nor are those
    that run commands, which may be about one thing (a snapshot, a dump)."""
    hooks = bool(job.settings.before or job.settings.after)
    alone = f"{job.workload} {'' if hooks else job.place}" if job.workload else ""
    return Queued(job.id, job.peer, job.priority, job.not_before, alone)


def limits(config: Config) -> Limits:
    return Limits(config.jobs.at_once, config.jobs.per_peer)
