"""A circuit breaker: leave alone who keeps failing, look now and then whether that has changed.

    state       event                                          next        what else
    closed      failure, the `failure_threshold`th in a row    open        for the cooldown
    closed      failure, too many of the calls in `window`     open        for the cooldown
    open        the cooldown is over                           half-open   `half_open_probes` calls may be under way
    half-open   failure                                        open        the cooldown doubles, up to `max_timeout`
    half-open   success, the `success_threshold`th             closed      the cooldown is `timeout` again
    any         reset                                          closed      everything starts anew

(Nygard, "Release It!", 2007, with the growing cooldown of exponential backoff; a rate over a window with a least number
of calls is what Hystrix and resilience4j add, because a peer that fails every other time never fails five times in a
row.) Too many: `minimum_calls` or more were made while closed, and `failure_rate` of them or more failed.

Time is what the caller says it is, and passes only forwards: a clock that steps back stands still until it goes on, one
that steps ahead lets the next probe out earlier. A probe of which nothing is heard for `timeout` gives up its place, so
that a caller that was cancelled cannot keep a breaker half-open.
"""

from __future__ import annotations

import datetime
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from dwcp.errors import CircuitOpenError

FIRST_PAUSE = 1.0
"""Seconds; doubles with each failure up to the interval between checks, as the pauses of a recovery do."""
MAX_CALLS = 1024
"""The newest that a window remembers, some 70 KB; a look each second for a quarter of an hour makes fewer."""


class State(StrEnum):
    CLOSED = "closed"
    HALF_OPEN = "half-open"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    """Times in seconds. `failure_rate`: a share, 0 to 1; `minimum_calls` is at most MAX_CALLS."""

    failure_threshold: int = 5
    timeout: float = 30.0
    success_threshold: int = 2
    half_open_probes: int = 1
    max_timeout: float = 600.0
    failure_rate: float = 0.5
    window: float = 300.0
    minimum_calls: int = 10


@dataclass(frozen=True, slots=True)
class BreakerStatus:
    """A breaker at one moment."""

    name: str
    state: str
    failures: int
    """In a row."""
    calls: int
    """That ended while it was closed, within the window."""
    failure_rate: float
    """Of those, 0 to 1."""
    trips: int
    """How often it has opened, all in all."""
    tripped_by: str
    """What opened it last; empty while closed."""
    reason: str
    """Of the newest failure."""
    retry_at_seconds: float
    """From now until a call is let through; 0 unless open."""


class Breaker:
    """Ask `allow` before a call, tell `succeeded`, `failed` or `abandoned` after it."""

    def __init__(self, name: str, settings: BreakerSettings) -> None:
        self.name = name
        self.settings = settings
        self._state = State.CLOSED
        self._failures = self._successes = self._trips = self._under_way = 0
        self._cooldown = settings.timeout
        self._tripped_by = self._reason = ""
        self._calls: deque[tuple[float, bool]] = deque(maxlen=MAX_CALLS)
        """(time, whether it failed), ascending."""
        self._clock: float | None = None
        self._time = 0.0
        """That has passed; all other times are of this clock."""
        self._opened_at = self._probed_at = 0.0

    def allow(self, now: float) -> bool:
        """Whether a call may be made; one that may has to be followed by what became of it."""
        self._tick(now)
        if self._state is State.HALF_OPEN:
            if self._under_way >= self.settings.half_open_probes:
                return False
            self._under_way += 1
            self._probed_at = self._time
        return self._state is not State.OPEN

    def succeeded(self, now: float) -> None:
        self._ended(now, failed=False)
        self._failures = 0
        if self._state is State.HALF_OPEN:
            self._successes += 1
            if self._successes >= self.settings.success_threshold:
                self._close()

    def failed(self, now: float, reason: str) -> None:
        self._ended(now, failed=True)
        self._failures += 1
        self._reason = reason
        if self._state is State.HALF_OPEN:
            self._cooldown = min(self.settings.max_timeout, self._cooldown * 2)
            self._open("a probe failed")
        elif self._state is State.CLOSED:
            cause = self._too_many()
            if cause:
                self._open(cause)

    def abandoned(self, now: float) -> None:
        """The call came to no end that says anything about the other side."""
        self._tick(now)
        self._under_way = max(0, self._under_way - 1)

    def reset(self) -> None:
        """As new, except that it has tripped as often as it has."""
        self._close()
        self._failures = 0
        self._reason = ""

    def status(self, now: float) -> BreakerStatus:
        self._tick(now)
        failed = sum(failed for _, failed in self._calls)
        return BreakerStatus(
            name=self.name,
            state=self._state,
            failures=self._failures,
            calls=len(self._calls),
            failure_rate=failed / len(self._calls) if self._calls else 0.0,
            trips=self._trips,
            tripped_by=self._tripped_by,
            reason=self._reason,
            retry_at_seconds=self._opened_at + self._cooldown - self._time if self._state is State.OPEN else 0.0,
        )

    def _tick(self, now: float) -> None:
        if self._clock is not None:
            self._time += max(0.0, now - self._clock)
        self._clock = now
        while self._calls and self._time - self._calls[0][0] >= self.settings.window:
            self._calls.popleft()
        if self._state is State.OPEN and self._time - self._opened_at >= self._cooldown:
            self._state = State.HALF_OPEN
            self._successes = self._under_way = 0
        if self._state is State.HALF_OPEN and self._time - self._probed_at >= self.settings.timeout:
            self._under_way = 0

    def _ended(self, now: float, *, failed: bool) -> None:
        self._tick(now)
        if self._state is State.CLOSED:
            self._calls.append((self._time, failed))
        self._under_way = max(0, self._under_way - 1)

    def _too_many(self) -> str:
        """Why it has to open; empty where it need not."""
        settings, calls = self.settings, len(self._calls)
        if self._failures >= settings.failure_threshold:
            return f"{self._failures} failures in a row"
        failed = sum(failed for _, failed in self._calls)
        if calls >= settings.minimum_calls and failed >= settings.failure_rate * calls:
            return f"{failed} of the {calls} calls within {settings.window:g} s failed"
        return ""

    def _open(self, cause: str) -> None:
        self._state = State.OPEN
        self._opened_at = self._time
        self._trips += 1
        self._tripped_by = cause
        self._calls.clear()

    def _close(self) -> None:
        self._state = State.CLOSED
        self._cooldown = self.settings.timeout
        self._successes = self._under_way = 0
        self._tripped_by = ""
        self._calls.clear()


def pause(status: BreakerStatus, interval: float) -> float:
    """Seconds until whoever looks at a peer each `interval` should look again: sooner while it is neither well nor left
    alone, so that an outage, and its end, are noticed."""
    if status.state == State.OPEN:
        return status.retry_at_seconds
    if status.state == State.HALF_OPEN or status.failures:
        return float(min(interval, FIRST_PAUSE * 2 ** min(max(0, status.failures - 1), 16)))
    return interval


def rejection(name: str, seconds: float, reason: str, wall: float) -> CircuitOpenError:
    """For a call that is not let through for another `seconds`. `wall`: now, in seconds since the epoch."""
    until = datetime.datetime.fromtimestamp(wall + seconds, datetime.UTC)
    return CircuitOpenError(
        f"the circuit breaker of {name!r} is open until {until:%H:%M:%S} UTC (another {seconds:.0f} s), because of: "
        f"{reason}; wait, or close it with `dwcp breaker reset {name}`",
        seconds,
    )


def worst(states: Iterable[str]) -> str:
    """Open before half-open before closed; closed where there are none."""
    order = list(State)
    return max((State(state) for state in states), key=order.index, default=State.CLOSED)
