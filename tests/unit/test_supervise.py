"""Breakers and recovery as stories, order and the node's health. Against a model: tests/property/test_breaker.py."""

from __future__ import annotations

import random

import pytest

from dwcp.supervise.breaker import Breaker, BreakerSettings, BreakerStatus, pause, rejection, worst
from dwcp.supervise.health import ComponentHealth, Health, Status, node_health
from dwcp.supervise.order import dependants, start_order
from dwcp.supervise.recovery import Phase, RecoverySettings, Supervised

SETTINGS = BreakerSettings(
    failure_threshold=3, timeout=30.0, success_threshold=2, half_open_probes=1, max_timeout=100.0
)


def test_a_story_of_a_breaker() -> None:
    breaker = Breaker("p", SETTINGS)
    for _ in range(3):
        assert breaker.allow(0.0)
        breaker.failed(0.0, "no answer")
    status = breaker.status(10.0)
    assert (status.state, status.retry_at_seconds, status.trips, status.reason) == ("open", 20.0, 1, "no answer")
    assert not breaker.allow(29.9)
    assert breaker.allow(30.0)
    assert not breaker.allow(30.0), "one probe at a time"
    breaker.failed(31.0, "still none")
    assert breaker.status(31.0).retry_at_seconds == 60.0
    assert breaker.allow(91.0)
    breaker.succeeded(91.0)
    assert breaker.status(91.0).state == "half-open"
    assert breaker.allow(92.0)
    breaker.succeeded(92.0)
    assert breaker.status(92.0).state == "closed"


def test_a_breaker_opens_for_a_rate_too_and_says_which_it_was() -> None:
    settings = BreakerSettings(failure_threshold=3, failure_rate=0.5, window=100.0, minimum_calls=6)
    breaker = Breaker("p", settings)
    for second in range(3):
        breaker.failed(second, "every other time")
        assert breaker.status(second).state == "closed"
        breaker.succeeded(second)
    breaker.failed(3.0, "every other time")
    status = breaker.status(3.0)
    assert (status.state, status.tripped_by) == ("open", "4 of the 7 calls within 100 s failed")
    breaker.reset()
    for second in range(4):
        breaker.failed(second * 60.0, "few, and long ago")
        breaker.succeeded(second * 60.0)
    assert breaker.status(200.0).state == "closed"


def test_a_clock_that_steps_back_does_not_wedge_it() -> None:
    breaker = Breaker("p", SETTINGS)
    for _ in range(3):
        breaker.failed(1000.0, "x")
    assert not breaker.allow(10.0)
    assert breaker.allow(40.0)


def test_a_probe_that_nobody_tells_of_gives_up_its_place() -> None:
    breaker = Breaker("p", SETTINGS)
    for _ in range(3):
        breaker.failed(0.0, "x")
    assert breaker.allow(30.0)
    breaker.abandoned(31.0)
    assert breaker.allow(31.0), "it was said that nothing comes"
    assert not breaker.allow(60.0)
    assert breaker.allow(61.0), "nothing was said for as long as the first cooldown"


def test_when_a_peer_is_looked_at_again() -> None:
    def after(state: str, failures: int) -> float:
        return pause(BreakerStatus("p", state, failures, 0, 0.0, 0, "", "", 17.0), 10.0)

    assert [after("closed", failures) for failures in range(6)] == [10.0, 1.0, 2.0, 4.0, 8.0, 10.0]
    assert after("half-open", 0) == 1.0
    assert after("open", 5) == 17.0
    assert after("closed", 10**6) == 10.0


def test_what_is_rejected_says_by_whom_until_when_and_what_to_do() -> None:
    error = rejection("node2", 23.0, "no answer", 1_000_000_000.0)
    assert str(error) == (
        "the circuit breaker of 'node2' is open until 01:47:03 UTC (another 23 s), because of: no answer; "
        "wait, or close it with `dwcp breaker reset node2`"
    )
    assert (error.code, error.exit_code, error.seconds) == ("circuit-open", 5, 23.0)


def test_the_worst_of_several() -> None:
    assert worst([]) == "closed"
    assert worst(["closed", "half-open", "closed"]) == "half-open"
    assert worst(["half-open", "open"]) == "open"


def _supervised() -> Supervised:
    settings = RecoverySettings(max_retries=3, jitter=0.0, slow_interval=60.0)
    return Supervised("c", settings, 10.0, random.Random(1), wall=0.0)


def _unwell(component: Supervised, now: float) -> None:
    component.checked(Health(Status.UNHEALTHY, "broke"), 0.1, now, now)


def test_a_story_of_recovery() -> None:
    component = _supervised()
    now = 0.0
    _unwell(component, now)
    for seconds in (1.0, 2.0, 4.0):
        assert component.status().recovering
        assert not component.due(now + seconds - 0.01)
        now += seconds
        assert component.due(now)
        component.restart()
        assert not component.due(now), "one at a time"
        component.start_failed("still broken", now, now)
        assert component.status().reason == "still broken"
        assert not component.is_up, "there is nothing to check"
    assert component.status().failed
    assert component.deadline() == now + 60.0
    assert component.due(now + 60.0)
    component.restart()
    component.started()
    component.checked(Health(), 0.1, now + 61.0, now + 61.0)
    assert component.phase is Phase.RUNNING
    assert component.status().recovering, "once is no proof"
    assert component.pause() == 1.0
    component.checked(Health(), 0.1, now + 62.0, now + 62.0)
    assert not component.status().recovering
    assert (component.counts().attempts, component.counts().successes) == (4, 1)


def test_what_is_well_again_by_itself_is_not_restarted() -> None:
    component = _supervised()
    _unwell(component, 0.0)
    assert component.pause() == 1.0, "looked at sooner"
    component.checked(Health(), 0.1, 0.9, 0.9)
    assert not component.due(1.0)
    assert component.pause() == 10.0
    assert (component.counts().attempts, component.counts().successes) == (0, 0)
    for _ in range(4):
        _unwell(component, 100.0)
        component.restart()
        component.started()
    _unwell(component, 100.0)
    assert component.status().failed
    for second in (101.0, 102.0):
        component.checked(Health(), 0.1, second, second)
        assert not component.status().failed
    assert component.counts().successes == 1


def test_a_restart_with_another_one_is_no_attempt_of_its_own() -> None:
    component = _supervised()
    _unwell(component, 0.0)
    component.restart_along()
    assert not component.due(100.0), "it is being restarted"
    component.checked(Health(), 0.1, 0.5, 0.5)
    assert component.status().status is Status.UNHEALTHY, "the check was of what was stopped"
    component.started()
    component.checked(Health(), 0.1, 1.0, 1.0)
    assert component.status().status is Status.HEALTHY
    assert component.counts().attempts == 0


def test_what_keeps_coming_back_only_to_fail_is_not_restarted_for_ever() -> None:
    component = _supervised()
    now = 0.0
    for _ in range(10):
        now += 10.0
        _unwell(component, now)
        if component.status().failed:
            break
        component.restart()
        component.started()
        component.checked(Health(), 0.1, now + 5.0, now + 5.0)
    assert component.status().failed
    assert component.counts().attempts < 8
    now += 5.0
    component.checked(Health(), 0.1, now, now)
    shown = component.status()
    assert (shown.status, shown.failed, shown.recovering) == (Status.DEGRADED, False, True)
    assert "comes and goes" in shown.reason
    for _ in range(12):
        now += 10.0
        component.checked(Health(), 0.1, now, now)
    assert (component.status().status, component.status().recovering) == (Status.HEALTHY, False)


def test_a_degraded_component_is_left_alone() -> None:
    component = _supervised()
    component.checked(Health(Status.DEGRADED, "slow"), 0.1, 1.0, 1.0)
    assert component.deadline() is None


def _component(status: Status, *, recovering: bool = False, failed: bool = False) -> ComponentHealth:
    return ComponentHealth("transport", status, "why", 0.0, 0.0, recovering, failed)


@pytest.mark.parametrize(
    ("component", "breaker", "status"),
    [
        (_component(Status.HEALTHY), "closed", Status.HEALTHY),
        (_component(Status.HEALTHY), "open", Status.DEGRADED),
        (_component(Status.DEGRADED), "closed", Status.DEGRADED),
        (_component(Status.UNHEALTHY, recovering=True), "closed", Status.DEGRADED),
        (_component(Status.UNHEALTHY, recovering=True, failed=True), "closed", Status.UNHEALTHY),
        (_component(Status.UNHEALTHY), "closed", Status.UNHEALTHY),
    ],
)
def test_the_health_of_a_node(component: ComponentHealth, breaker: str, status: Status) -> None:
    health = node_health([component], [_tripped(breaker)], 1.0)
    assert health.status is status
    assert bool(health.reason) == (status is not Status.HEALTHY)


def _tripped(state: str) -> BreakerStatus:
    return BreakerStatus("b", state, 5, 0, 0.0, 1, "5 failures in a row", "no answer", 3.0)


def test_the_health_of_a_node_names_the_breaker_and_says_when_nobody_looks() -> None:
    well = _component(Status.HEALTHY)
    assert node_health([well], [_tripped("open")], 1.0).reason == "the circuit breaker of b is open: no answer"
    stalled = node_health([well], [], 1.0, 7.0)
    assert (stalled.status, "7 s" in stalled.reason) == (Status.UNHEALTHY, True)


def test_order() -> None:
    needs = {"http": ("metrics",), "transport": ("state",), "state": (), "metrics": (), "peers": ("transport",)}
    order = start_order(needs)
    assert order.index("state") < order.index("transport") < order.index("peers")
    assert dependants("state", needs) == ["transport", "peers"]
    with pytest.raises(ValueError, match="circle"):
        start_order({"a": ("b",), "b": ("a",)})
    with pytest.raises(ValueError, match="does not exist"):
        start_order({"a": ("x",)})
