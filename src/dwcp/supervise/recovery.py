"""What becomes of a component, from what its checks say: restarts with growing pauses, then failed with a slow retry.

    state       event                          next        action
    running     check is unhealthy             waiting     restart after backoff
    waiting     pause is over                  restarting  restart now
    restarting  started                        running     (attempts are kept for now)
    restarting  start failed, attempts left    waiting     restart after the next backoff
    restarting  start failed, none left        failed      restart after the slow interval
    failed      slow interval is over          restarting  restart now
    waiting     check is well again            running     the restart is called off: what was wrong is over
    failed      check is well again            running     the same
    running     PROOF checks are well          running     attempts start anew, unless it flaps
    any         one that it stands on restarts restarting  stopped and started with it; no attempt of its own

A degraded component works: that is well, and it is left alone. One that flaps keeps its attempts, so that what comes
back only to fail again is not restarted for ever. One restart at a time for each component, none waits for another,
but for those that it depends on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from dwcp.supervise.health import ComponentHealth, Damper, Health, Status

RECHECK = 1.0
"""Seconds between checks of a component that is being recovered: as soon as the cause is gone it should show."""
PROOF = 2
"""Checks in a row by which a restart has helped: the first comes so early that what fails at its work has none yet."""
HALF_LIFE = 6
"""Of the damping, in intervals between checks: what fails at every third check flaps, at every tenth it does not."""


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

    def __init__(
        self, name: str, settings: RecoverySettings, interval: float, chance: random.Random, wall: float
    ) -> None:
        """`interval`: seconds between two checks."""
        self.name = name
        self.phase = Phase.RUNNING
        self._chance = chance
        self._damper = Damper(HALF_LIFE * interval)
        self._health = Health()
        self._down = False
        """A restart is under way, or has failed."""
        self._unhealthy = False
        """By the newest check or start, whatever is shown."""
        self._well = 0
        """Checks in a row that said so, since the newest start."""
        self._since = wall
        self._check_seconds = 0.0
        self._attempts = 0
        self._restart_at: float | None = None
        self._counts = RecoveryCounts()
        self.apply(settings, interval)

    def apply(self, settings: RecoverySettings, interval: float) -> None:
        self.settings = settings
        self.interval = interval
        self._damper.half_life = HALF_LIFE * interval

    def checked(self, health: Health, seconds: float, now: float, wall: float) -> None:
        """A check gave `health` after `seconds`."""
        if not self.is_up:
            # it is of what was stopped: the restart decides now
            return
        self._set(health, now, wall)
        self._check_seconds = seconds
        if self._unhealthy:
            if self.phase is Phase.RUNNING:
                self._plan(now)
            return
        self.phase = Phase.RUNNING
        self._restart_at = None
        self._well += 1
        if self._attempts and self._well >= PROOF and not self._damper.flaps:
            self._attempts = 0
            self._counts = RecoveryCounts(self._counts.attempts, self._counts.successes + 1)

    @property
    def is_up(self) -> bool:
        """There is something to check: it has been started, and nobody restarts it."""
        return not self._down

    def pause(self) -> float:
        """Seconds until the next check."""
        return min(RECHECK, self.interval) if self._unhealthy or self._attempts else self.interval

    def due(self, now: float) -> bool:
        """Whether it is time for a restart."""
        return self._restart_at is not None and now >= self._restart_at

    def restart(self) -> None:
        """A restart of its own begins; `started` or `start_failed` has to follow."""
        self.restart_along()
        self._attempts += 1
        self._counts = RecoveryCounts(self._counts.attempts + 1, self._counts.successes)

    def restart_along(self) -> None:
        """It is restarted because of another one; `started` or `start_failed` has to follow."""
        self.phase = Phase.RESTARTING
        self._restart_at = None
        self._down = True

    def started(self) -> None:
        """The restart went through; the next check tells whether it helped."""
        self.phase = Phase.RUNNING
        self._down = False
        self._well = 0

    def start_failed(self, reason: str, now: float, wall: float) -> None:
        self._set(Health(Status.UNHEALTHY, reason), now, wall)
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

    def _set(self, health: Health, now: float, wall: float) -> None:
        self._unhealthy = health.status is Status.UNHEALTHY
        if self._unhealthy:
            self._well = 0
        shown = self._damper.observe(health, now)
        if shown.status is not self._health.status:
            self._since = wall
        self._health = shown
