"""A circuit breaker: leave alone who keeps failing, look now and then whether that has changed.

    state       event                                     next        what else
    closed      failure, the `failure_threshold`th in a row   open        for `cooldown`
    closed      success                                   closed      the count starts anew
    open        `cooldown` is over                        half-open   `half_open_probes` calls may be under way
    half-open   failure                                   open        the cooldown doubles, up to `max_timeout`
    half-open   success, the `success_threshold`th        closed      the cooldown is `timeout` again
    any         reset                                     closed      everything starts anew

(Nygard, "Release It!", 2007, with the growing cooldown of exponential backoff.) Time is what the caller says it is; a
clock that steps back starts the cooldown anew rather than keep a breaker open until it has caught up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    CLOSED = "closed"
    HALF_OPEN = "half-open"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """Times in seconds."""

    failure_threshold: int = 5
    timeout: float = 30.0
    success_threshold: int = 2
    half_open_probes: int = 1
    max_timeout: float = 600.0


@dataclass(frozen=True, slots=True)
class BreakerStatus:
    """A breaker at one moment."""

    name: str
    state: str
    failures: int
    """In a row."""
    trips: int
    """How often it has opened, all in all."""
    reason: str
    """Of the newest failure."""
    retry_at_seconds: float
    """From now until a call is let through; 0 unless open."""


class Breaker:
    """Ask `allow` before a call, tell `succeeded` or `failed` after it."""

    def __init__(self, name: str, settings: BreakerSettings) -> None:
        self.name = name
        self.settings = settings
        self._state = State.CLOSED
        self._failures = self._successes = self._trips = self._under_way = 0
        self._opened_at = 0.0
        self._cooldown = settings.timeout
        self._reason = ""

    def allow(self, now: float) -> bool:
        """Whether a call may be made; one that may has to be followed by `succeeded` or `failed`."""
        self._tick(now)
        if self._state is State.OPEN:
            return False
        if self._state is State.HALF_OPEN:
            if self._under_way >= self.settings.half_open_probes:
                return False
            self._under_way += 1
        return True

    def succeeded(self, now: float) -> None:
        self._tick(now)
        self._failures = 0
        if self._state is State.HALF_OPEN:
            self._under_way = max(0, self._under_way - 1)
            self._successes += 1
            if self._successes >= self.settings.success_threshold:
                self._close()

    def failed(self, now: float, reason: str) -> None:
        self._tick(now)
        self._failures += 1
        self._reason = reason
        if self._state is State.HALF_OPEN:
            self._cooldown = min(self.settings.max_timeout, self._cooldown * 2)
            self._open(now)
        elif self._state is State.CLOSED and self._failures >= self.settings.failure_threshold:
            self._open(now)

    def reset(self) -> None:
        """As new, except that it has tripped as often as it has."""
        self._close()
        self._failures = 0
        self._reason = ""

    def status(self, now: float) -> BreakerStatus:
        self._tick(now)
        left = self._opened_at + self._cooldown - now if self._state is State.OPEN else 0.0
        return BreakerStatus(self.name, self._state, self._failures, self._trips, self._reason, left)

    def _tick(self, now: float) -> None:
        if self._state is not State.OPEN:
            return
        if now < self._opened_at:
            self._opened_at = now
        if now - self._opened_at >= self._cooldown:
            self._state = State.HALF_OPEN
            self._successes = self._under_way = 0

    def _open(self, now: float) -> None:
        self._state = State.OPEN
        self._opened_at = now
        self._trips += 1

    def _close(self) -> None:
        self._state = State.CLOSED
        self._cooldown = self.settings.timeout
        self._successes = self._under_way = 0


def worst(states: Iterable[str]) -> str:
    """Open before half-open before closed; closed where there are none."""
    order = list(State)
    return max((State(state) for state in states), key=order.index, default=State.CLOSED)
