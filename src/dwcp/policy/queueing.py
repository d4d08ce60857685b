"""Which job goes next, and what becomes of one that failed.

    waiting ──▶ running ──▶ done
       ▲           │
       ├───────────┤ failed, and another try may help: after a pause that doubles
       │           ▼
       └──────── parked     failed for good, or too often: a person, or the workload's next run, sets it going again

A waiting or parked job can be cancelled; a running one ends as cancelled when its transfer has stopped. Times are
wall-clock seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum


class JobState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    PARKED = "parked"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Limits:
    """How many jobs run at once, in all and with one peer."""

    at_once: int
    per_peer: int


@dataclass(frozen=True, slots=True)
class Backoff:
    """`first` pause and the `most` it grows to, in seconds; `retries` before a job is parked."""

    first: float
    most: float
    retries: int

    def pause(self, attempts: int, chance: float) -> float:
        """Seconds after so many failed attempts (at least 1); `chance` from 0 to 1 takes up to half away, so that many
        jobs do not come back in step."""
        whole = min(self.most, self.first * 2.0 ** min(attempts - 1, 62))
        return whole * (1.0 - chance / 2)


@dataclass(frozen=True, slots=True)
class Queued:
    """What is decided by. `alone`: jobs of the same name here never run side by side; empty for none."""

    id: int
    peer: str
    priority: int
    not_before: float
    alone: str = ""


HOPELESS = frozenset({"usage", "config", "refused", "authentication", "version"})
"""Codes of errors that stay until somebody changes a configuration: no use in trying again."""


def parks(code: str, attempts: int, backoff: Backoff) -> bool:
    """Whether a job that failed with an error of this code, for the `attempts`-th time, is set aside."""
    return code in HOPELESS or attempts > backoff.retries


def choose(
    waiting: Iterable[Queued], running: Collection[Queued], now: float, limits: Limits, closed: Collection[str] = ()
) -> list[int]:
    """Ids of the jobs to start now: the highest priority first, then the oldest. `closed`: peers that are not spoken to
    at the moment (their circuit breaker is open)."""
    peers = Counter(job.peer for job in running)
    busy = {job.alone for job in running if job.alone}
    free = limits.at_once - len(running)
    chosen = []
    for job in sorted(waiting, key=lambda job: (-job.priority, job.id)):
        if free <= 0:
            break
        if job.not_before > now or job.peer in closed or peers[job.peer] >= limits.per_peer or job.alone in busy:
            continue
        chosen.append(job.id)
        peers[job.peer] += 1
        busy |= {job.alone} if job.alone else set()
        free -= 1
    return chosen


def next_look(waiting: Iterable[Queued], now: float) -> float | None:
    """When a job's pause is over that now keeps it waiting; None where there is none."""
    later = [job.not_before for job in waiting if job.not_before > now]
    return min(later) if later else None
