"""Damping of flapping health: what it may hold back, for how long, and what it may not."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dwcp.supervise.health import CALM, FLAPS, MOST, Damper, Health, Status

HALF_LIFE = 60.0
CHECKS = st.lists(st.tuples(st.floats(0.0, 90.0), st.sampled_from(Status)), max_size=60)
"""(seconds since the one before, what it says)."""


def told(checks: list[tuple[float, Status]]) -> list[tuple[float, Health, Health]]:
    """(when, what the check says, what is shown)."""
    damper, now, found = Damper(HALF_LIFE), 0.0, []
    for wait, status in checks:
        now += wait
        health = Health(status, "" if status is Status.HEALTHY else "why")
        found.append((now, health, damper.observe(health, now)))
    return found


def faults(checks: list[tuple[float, Health, Health]], until: float) -> list[float]:
    """When it got worse, as of `until`."""
    seen = [(0.0, Health()), *((at, said) for at, said, _ in checks if at <= until)]
    return [at for (_, before), (at, said) in pairwise(seen) if said.status.severity > before.status.severity]


@given(CHECKS)
def test_it_never_looks_better_than_its_check_and_never_worse_than_degraded_for_flapping(
    checks: list[tuple[float, Status]],
) -> None:
    for _, said, shown in told(checks):
        assert shown.status.severity >= said.status.severity
        assert shown == said or shown.status is Status.DEGRADED
        assert shown.reason or shown.status is Status.HEALTHY


@given(CHECKS)
def test_nothing_is_held_back_before_the_third_fault(checks: list[tuple[float, Status]]) -> None:
    found = told(checks)
    for at, said, shown in found:
        if len(faults(found, at)) < FLAPS:
            assert shown == said


@given(CHECKS)
def test_it_is_held_back_for_two_half_lives_at_the_most(checks: list[tuple[float, Status]]) -> None:
    longest = HALF_LIFE * math.log2(MOST / CALM)
    found = told(checks)
    for at, said, shown in found:
        if at - max(faults(found, at), default=-math.inf) > longest + 1e-6:
            assert shown == said


@given(st.integers(1, 30), st.integers(2, 200))
def test_what_comes_and_goes_fast_is_shown_healthy_a_few_times_only(period: int, times: int) -> None:
    """However long it goes on: unwell and well again every `period` seconds, less than half a half-life. Once it is
    over, two half-lives are enough."""
    back_and_forth = [(period / 2, Status.UNHEALTHY), (period / 2, Status.HEALTHY)] * times
    found = told([*back_and_forth, (2 * HALF_LIFE, Status.HEALTHY)])
    shown = [after.status for _, _, after in found]
    assert shown[:-1].count(Status.HEALTHY) <= 3
    assert shown[-1] is Status.HEALTHY


@given(CHECKS, st.lists(st.floats(0, 1e6), min_size=60, max_size=60))
def test_a_clock_that_steps_back_stands_still(checks: list[tuple[float, Status]], steps: list[float]) -> None:
    steady, stepping, now, clock = Damper(HALF_LIFE), Damper(HALF_LIFE), 0.0, 0.0
    for (wait, status), step in zip(checks, steps, strict=False):
        now += wait
        clock += wait
        one, other = steady.observe(Health(status, "x"), now), stepping.observe(Health(status, "x"), clock)
        assert one == other
        clock -= step
        stepping.observe(Health(status, "x"), clock)
