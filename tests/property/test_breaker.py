"""The circuit breaker beside a model of it that knows only its history, and is asked anew each time."""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis.strategies as st
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dwcp.supervise.breaker import MAX_CALLS, Breaker, BreakerSettings

SETTINGS = st.builds(
    BreakerSettings,
    failure_threshold=st.integers(1, 6),
    timeout=st.sampled_from([1.0, 30.0]),
    success_threshold=st.integers(1, 3),
    half_open_probes=st.integers(1, 3),
    max_timeout=st.sampled_from([1.0, 45.0, 300.0]),
    failure_rate=st.sampled_from([0.25, 0.5, 1.0]),
    window=st.sampled_from([5.0, 100.0]),
    minimum_calls=st.integers(1, 8),
)


@dataclass
class Model:
    """What was written down, in periods: each time that the breaker was closed, open or half-open is one."""

    settings: BreakerSettings
    periods: list[tuple[str, float]] = field(default_factory=lambda: [("closed", 0.0)])
    """(state, when it began). Opening is written down with what follows from it, the end of the cooldown."""
    ends: list[tuple[float, str]] = field(default_factory=list)
    """Of calls, as they came: (time, what became of it)."""
    begun: list[float] = field(default_factory=list)
    """Probes of this half-open period that nobody has told of."""
    refused_rounds: int = 0
    """Probes that failed since it was last closed."""
    first_of_period: int = 0
    """Index in `ends` of the first that ended in this period."""
    trips: int = 0

    def cooldown(self) -> float:
        doubled = self.settings.timeout
        for _ in range(self.refused_rounds):
            doubled = min(self.settings.max_timeout, doubled * 2)
        return doubled

    def state(self, now: float) -> str:
        state, since = self.periods[-1]
        return "half-open" if state == "open" and now >= since + self.cooldown() else state

    def enter_half_open(self, now: float) -> None:
        if self.state(now) != self.periods[-1][0]:
            self.periods.append(("half-open", now))
            self.begun = []
            self.first_of_period = len(self.ends)

    def may(self, now: float) -> bool:
        self.enter_half_open(now)
        if self.state(now) == "half-open":
            # they lapse together, when nothing was begun for the timeout
            if self.begun and now - max(self.begun) >= self.settings.timeout:
                self.begun = []
            if len(self.begun) >= self.settings.half_open_probes:
                return False
            self.begun.append(now)
            return True
        return self.state(now) == "closed"

    def end(self, now: float, outcome: str) -> None:
        self.enter_half_open(now)
        state = self.state(now)
        if state == "half-open" and self.begun:
            if now - max(self.begun) >= self.settings.timeout:
                self.begun = []
            # which of them is the same to everybody; the newest began last
            self.begun = [*self.begun[:-2], self.begun[-1]] if len(self.begun) > 1 else []
        if outcome == "abandon":
            return
        self.ends.append((now, outcome))
        if outcome == "fail" and state == "half-open":
            self.refused_rounds += 1
            self.open(now)
        elif outcome == "fail" and state == "closed" and self.is_too_much(now):
            self.open(now)
        elif outcome == "succeed" and state == "half-open":
            since = len(self.ends) - self.first_of_period
            if since >= self.settings.success_threshold:
                self.close(now)

    def open(self, now: float) -> None:
        self.trips += 1
        self.periods.append(("open", now))
        self.first_of_period = len(self.ends)

    def close(self, now: float) -> None:
        self.periods.append(("closed", now))
        self.refused_rounds = 0
        self.first_of_period = len(self.ends)

    def in_a_row(self) -> int:
        count = 0
        for _, outcome in reversed(self.ends):
            if outcome in ("succeed", "reset"):
                break
            count += 1
        return count

    def window(self, now: float) -> list[str]:
        if self.state(now) != "closed":
            return []
        ended = [end for end in self.ends[self.first_of_period :] if end[1] != "reset"]
        return [outcome for time, outcome in ended if now - time < self.settings.window]

    def is_too_much(self, now: float) -> bool:
        recent = self.window(now)
        share = recent.count("fail") / len(recent)
        often = len(recent) >= self.settings.minimum_calls and share >= self.settings.failure_rate
        return often or self.in_a_row() >= self.settings.failure_threshold


class Breakers(RuleBasedStateMachine):
    """`clock` is what the breaker is told, and may step back; `time` is what passes, forwards alone."""

    @initialize(settings=SETTINGS, clock=st.sampled_from([0.0, 1e9]))
    def begin(self, settings: BreakerSettings, clock: float) -> None:
        self.breaker, self.model = Breaker("p", settings), Model(settings)
        self.clock, self.time = clock, 0.0
        assert self.breaker.status(self.clock).state == "closed"

    @rule(seconds=st.one_of(st.integers(0, 4), st.integers(0, 200)))
    def wait(self, seconds: int) -> None:
        self.clock += seconds
        self.time += seconds

    @rule(seconds=st.integers(1, 10**6))
    def the_clock_steps_back(self, seconds: int) -> None:
        self.clock -= seconds
        # told at once, as it is by whoever asks next
        self.breaker.status(self.clock)

    @rule()
    def ask(self) -> None:
        assert self.breaker.allow(self.clock) == self.model.may(self.time)

    @rule(outcome=st.sampled_from(["fail", "fail", "succeed", "abandon"]))
    def end(self, outcome: str) -> None:
        """Also of calls that were begun in another state, or never."""
        if outcome == "fail":
            self.breaker.failed(self.clock, "why")
        elif outcome == "succeed":
            self.breaker.succeeded(self.clock)
        else:
            self.breaker.abandoned(self.clock)
        self.model.end(self.time, outcome)

    @precondition(lambda self: self.model.state(self.time) != "closed")
    @rule()
    def wait_and_ask(self) -> None:
        """Until the next probe may go; while half-open, until those under way have lapsed."""
        half_open = self.model.state(self.time) == "half-open"
        self.wait(round(self.model.settings.timeout if half_open else self.breaker.status(self.clock).retry_at_seconds))
        self.ask()

    @rule()
    def reset(self) -> None:
        self.breaker.reset()
        self.model.ends.append((self.time, "reset"))
        self.model.close(self.time)

    @invariant()
    def they_agree(self) -> None:
        status, model = self.breaker.status(self.clock), self.model
        model.enter_half_open(self.time)
        assert status.state == model.state(self.time)
        assert status.failures == model.in_a_row()
        assert status.trips == model.trips
        recent = model.window(self.time)
        assert status.calls == len(recent)
        assert status.failure_rate == (recent.count("fail") / len(recent) if recent else 0.0)
        assert bool(status.tripped_by) == (status.state != "closed")
        left = model.periods[-1][1] + model.cooldown() - self.time if status.state == "open" else 0.0
        assert status.retry_at_seconds == left


TestBreaker = Breakers.TestCase
TestBreaker.settings = settings(max_examples=300)


@given(st.lists(st.booleans(), max_size=3 * MAX_CALLS))
def test_what_a_window_remembers_is_bounded(outcomes: list[bool]) -> None:
    settings = BreakerSettings(failure_threshold=10**9, window=10**9, failure_rate=1.0, minimum_calls=MAX_CALLS)
    breaker = Breaker("p", settings)
    for second, failed in enumerate(outcomes):
        breaker.failed(second, "x") if failed else breaker.succeeded(second)
    assert breaker.status(len(outcomes)).calls <= MAX_CALLS
