"""Decisions about streams, rates and leaves on computed paths: they converge, stay in bounds, and follow a change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dwcp.testing.path import SimulatedPath
from dwcp.tuning.leaves import leaf_log
from dwcp.tuning.rate import HEADROOM, PROBE, RateLimit
from dwcp.tuning.streams import Decision, Sample, StreamTuner
from dwcp.tuning.turns import FIRST, LAST, Turns

STEP = 0.1


def drive(tuner: StreamTuner, path: SimulatedPath, seconds: float, start: float = 0.0) -> list[Decision]:
    """The decisions in `seconds` of simulated time."""
    decisions = []
    for tick in range(int(seconds / STEP)):
        path.run(STEP, tuner.streams)
        decision = tuner.observe(start + (tick + 1) * STEP, path.sample())
        if decision is not None:
            decisions.append(decision)
        assert tuner.minimum <= tuner.streams <= tuner.maximum
    return decisions


def needed(path: SimulatedPath) -> float:
    return path.rate / path.stream_rate()


def test_a_lossy_path_gets_the_streams_that_fill_it_and_not_many_more() -> None:
    path = SimulatedPath(rate=500e6, round_trip=0.05, loss=0.001)
    tuner = StreamTuner(16, 256, 32, 1.5, 0.0)
    decisions = drive(tuner, path, 60)
    assert needed(path) * 0.7 < tuner.streams < needed(path) * 1.6
    assert decisions[0].streams == 48


def test_streams_that_begin_with_more_than_they_can_keep_are_not_believed() -> None:
    path = SimulatedPath(rate=500e6, round_trip=0.05, loss=0.001, opening=3.0)
    tuner = StreamTuner(16, 256, 24, 1.5, 0.0, loss_based=True)
    drive(tuner, path, 15)
    assert 0.9 * needed(path) < tuner.streams < needed(path) * 1.6
    path.delivered = path.resent = 0
    drive(tuner, path, 60, start=15.0)
    assert path.delivered * 8 / 60 > 0.95 * path.rate, "fewer are not tried where packets are lost and no queue builds"


def test_a_path_that_few_streams_fill_is_left_with_few() -> None:
    path = SimulatedPath(rate=1e9, round_trip=0.02)
    tuner = StreamTuner(1, 256, 32, 1.5, 0.0)
    drive(tuner, path, 300)
    assert tuner.streams <= 8


def test_streams_that_overrun_the_path_are_taken_back() -> None:
    path = SimulatedPath(rate=500e6, round_trip=0.05, overshoot=0.25)
    tuner = StreamTuner(4, 256, 64, 1.5, 0.0)
    drive(tuner, path, 12)
    assert tuner.streams < 20


def test_a_path_that_changes_is_probed_at_once() -> None:
    path = SimulatedPath(rate=100e6, round_trip=0.1, loss=0.01)
    tuner = StreamTuner(8, 512, 32, 1.5, 0.0)
    drive(tuner, path, 60)
    before = tuner.streams
    path.rate = 500e6
    path.loss = 0.02
    drive(tuner, path, 40, start=60.0)
    assert tuner.streams > 1.5 * before


def test_every_change_says_why() -> None:
    tuner = StreamTuner(16, 256, 32, 1.5, 0.0)
    for decision in drive(tuner, SimulatedPath(rate=100e6, round_trip=0.1, loss=0.01), 60):
        assert len(decision.reason) > 10


def test_streams_without_work_say_nothing_of_the_path() -> None:
    tuner = StreamTuner(1, 256, 32, 1.5, 0.0)
    for tick in range(1000):
        assert tuner.observe(tick * STEP, Sample(tick * 1000, starved=True)) is None
    assert tuner.streams == 32


@given(
    rate=st.floats(1e6, 1e11),
    round_trip=st.floats(0.0001, 1.0),
    loss=st.floats(0.0, 0.2),
    overshoot=st.floats(0.0, 1.0),
    minimum=st.integers(1, 256),
    more=st.integers(0, 768),
    initial=st.integers(1, 1024),
    factor=st.floats(1.01, 4.0),
)
def test_the_count_stays_in_its_bounds_and_settles(
    rate: float,
    round_trip: float,
    loss: float,
    overshoot: float,
    minimum: int,
    more: int,
    initial: int,
    factor: float,
) -> None:
    path = SimulatedPath(rate=rate, round_trip=round_trip, loss=loss, overshoot=overshoot)
    tuner = StreamTuner(minimum, minimum + more, initial, factor, 0.0)
    drive(tuner, path, 60)
    late = drive(tuner, path, 60, start=60.0)
    # changes become rare: a probe and its way back for each hold, or steps of a factor that is close to one
    assert len(late) <= 60


@given(st.lists(st.tuples(st.floats(0, 10), st.integers(0, 10**12), st.integers(0, 10**12), st.floats(0, 2))))
def test_no_observation_upsets_a_controller(steps: list[tuple[float, int, int, float]]) -> None:
    tuner, limit = StreamTuner(1, 64, 8, 1.5, 0.0), RateLimit(0.0)
    now, delivered, resent = 0.0, 0, 0
    for seconds, more, again, trip in steps:
        now, delivered, resent = now + seconds, delivered + more, resent + again
        tuner.observe(now, Sample(delivered, resent, trip))
        limit.observe(now, delivered, resent, trip)
        assert 1 <= tuner.streams <= 64
        assert limit.limit is None or limit.limit >= 0


def feed(limit: RateLimit, now: float, rates: list[float], lossy: frozenset[int] = frozenset()) -> list[float | None]:
    """A second at each rate (bits per second); the limit after each. In `lossy` seconds a tenth is sent again."""
    delivered = resent = 0
    limits = []
    for number, rate in enumerate(rates):
        delivered += int(rate / 8)
        resent += int(rate / 80) if number in lossy else 0
        limit.observe(now + number + 1, delivered, resent, 0.05)
        limits.append(limit.limit)
    return limits


def test_streams_find_the_path_by_themselves_before_they_are_limited() -> None:
    limits = feed(RateLimit(0.0), 0.0, [10e6, 20e6, 40e6, 80e6, 81e6, 80e6])
    assert limits[:4] == [None] * 4
    assert limits[4] == 81e6 * HEADROOM


def test_a_queue_that_overflows_drains_and_the_best_is_measured_anew() -> None:
    limits = feed(RateLimit(0.0), 0.0, [100e6, 100e6, 100e6, 80e6, 90e6], lossy=frozenset({3}))
    assert limits[2] == 100e6 * HEADROOM
    assert limits[3] == 80e6
    assert limits[4] == 90e6 * HEADROOM


def test_more_is_asked_for_now_and_then() -> None:
    limits = feed(RateLimit(0.0), 0.0, [100e6] * 24)
    assert limits.count(100e6 * PROBE) == 2


def test_a_path_is_found_anew_after_a_rest() -> None:
    limit = RateLimit(0.0)
    assert feed(limit, 0.0, [100e6] * 4)[-1] is not None
    delivered = int(4 * 100e6 / 8)
    assert [limit.rest(4.0 + second, delivered, 0) for second in range(60)] == [True] + [False] * 59
    assert limit.limit is None
    assert not limit.observe(64.0, delivered + int(100e6 / 8), 0, 0.05)
    assert limit.observe(65.0, delivered + int(200e6 / 8), 0, 0.05)
    assert limit.limit == 100e6 * HEADROOM


def test_leaves_keep_a_stream_busy_for_a_moment_only() -> None:
    assert leaf_log(0.0001, None, 32) == 20
    assert leaf_log(0.1, 100e6, 100) == 17
    assert leaf_log(0.1, None, 32) == 18
    assert leaf_log(0.02, 10e9, 16) == 20


@given(st.floats(0, 10), st.none() | st.floats(1, 1e13), st.integers(0, 1024))
def test_leaves_are_among_those_that_ends_can_agree_on(trip: float, rate: float | None, streams: int) -> None:
    assert 17 <= leaf_log(trip, rate, streams) <= 20


def test_no_two_streams_begin_their_model_at_once() -> None:
    turns, taken = Turns(), []
    for tick in range(120):
        taken += [(tick * 0.1, number) for number in turns.due(tick * 0.1, range(32))]
    assert sorted(number for _, number in taken) == list(range(32))
    assert taken[0][0] >= FIRST
    assert taken[-1][0] <= LAST + 0.1
    together = max(sum(other == at for other, _ in taken) for at, _ in taken)
    assert together <= 2


def test_a_path_that_is_far_from_full_is_approached_in_large_steps() -> None:
    path = SimulatedPath(rate=2e9, round_trip=0.05, loss=0.001)
    tuner = StreamTuner(16, 512, 16, 1.5, 0.0)
    decisions = drive(tuner, path, 60)
    enough = [decision.streams > 0.7 * needed(path) for decision in decisions]
    assert needed(path) > 128
    assert enough.index(True) < 5, "steps of a half each would be six or more"
