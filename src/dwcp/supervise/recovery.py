"""What becomes of a component, from what its checks say: restarts with growing pauses, then failed with a slow retry.

    state       event                          next        action
    running     check is unhealthy             waiting     restart after backoff
    waiting     pause is over                  restarting  restart now
    restarting  started                        running     (attempts are kept until a check is healthy)
    restarting  start failed, attempts left    waiting     restart after the next backoff
    restarting  start failed, none left        failed      restart after the slow interval
    failed      slow interval is over          restarting  restart now
    running     check is healthy               running     attempts start anew

A degraded component works and is left alone. One restart at a time for each component, none waits for another.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from dwcp.supervise.health import ComponentHealth, Health, Status


@dataclass(frozen=True, slots=True)
class RecoverySettings:
    """Times in seconds. `jitter`: share of each pause that is left to chance."""

    max_retries: int = 3
    backoff: float = 1.0
    factor: float = 2.0
    jitter: float = 0.1
    slow_interval: float = 60.0


@dataclass(frozen=True, slots=True)
class RecoveryCounts:
    attempts: int = 0
    successes: int = 0


class Phase(StrEnum):
    RUNNING = "running"
    WAITING = "waiting"
    RESTARTING = "restarting"
    FAILED = "failed"


class Supervised:
    """One component's story. Times are monotonic seconds, `wall` seconds since the epoch for people."""

    def __init__(self, name: str, settings: RecoverySettings, chance: random.Random, wall: float) -> None:
        self.name = name
        self.settings = settings
        self.phase = Phase.RUNNING
        self._chance = chance
        self._health = Health()
        self._since = wall
        self._check_seconds = 0.0
        self._attempts = 0
        self._restart_at: float | None = None
        self._counts = RecoveryCounts()

    def checked(self, health: Health, seconds: float, now: float, wall: float) -> None:
        """A check gave `health` after `seconds`."""
        if self.phase is not Phase.RUNNING:
            # it was under way when the component was given up: the restart decides now
            return
        self._set(health, wall)
        self._check_seconds = seconds
        if health.status is Status.UNHEALTHY:
            self._plan(now)
        elif self._attempts:
            self._attempts = 0
            self._counts = RecoveryCounts(self._counts.attempts, self._counts.successes + 1)

    def due(self, now: float) -> bool:
        """True once when a restart has to begin now; `started` or `start_failed` has to follow."""
        if self.phase not in (Phase.WAITING, Phase.FAILED) or self._restart_at is None or now < self._restart_at:
            return False
        self.phase = Phase.RESTARTING
        self._restart_at = None
        self._attempts += 1
        self._counts = RecoveryCounts(self._counts.attempts + 1, self._counts.successes)
        return True

    def started(self) -> None:
        """The restart went through; the next check tells whether it helped."""
        self.phase = Phase.RUNNING

    def start_failed(self, reason: str, now: float, wall: float) -> None:
        self._set(Health(Status.UNHEALTHY, reason), wall)
        self._plan(now)

    def deadline(self) -> float | None:
        """When `due` has to be asked next."""
        return self._restart_at

    def counts(self) -> RecoveryCounts:
        return self._counts

    def status(self) -> ComponentHealth:
        return ComponentHealth(
            name=self.name,
            status=self._health.status,
            reason=self._health.reason,
            since=self._since,
            check_seconds=self._check_seconds,
            recovering=self.phase in (Phase.WAITING, Phase.RESTARTING) or (self._attempts > 0),
            failed=self.phase is Phase.FAILED,
        )

    def _plan(self, now: float) -> None:
        if self._attempts >= self.settings.max_retries:
            self.phase = Phase.FAILED
            self._restart_at = now + self.settings.slow_interval
            return
        self.phase = Phase.WAITING
        pause = self.settings.backoff * self.settings.factor**self._attempts
        self._restart_at = now + pause * (1 + self.settings.jitter * self._chance.uniform(-1, 1))

    def _set(self, health: Health, wall: float) -> None:
        if health.status is not self._health.status:
            self._since = wall
        self._health = health
