"""The core of forecasting: histories, models, calibration, and who chooses."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from dwcp.forecast.conformal import Calibration
from dwcp.forecast.distribution import LEVELS, Distribution, Model
from dwcp.forecast.eta import Rates
from dwcp.forecast.ewma import Ewma
from dwcp.forecast.forecaster import LinkForecaster, Settings
from dwcp.forecast.history import MOST, History, Measurement
from dwcp.forecast.last import Last
from dwcp.forecast.probing import EVERY, HOUR, ProbeBudget
from dwcp.forecast.sampling import Counts, Sampler, Stretch

MBIT = 1e6
Rates5s = list[float]


def measurements(rates: Rates5s, step: float = 5.0) -> list[Measurement]:
    return [Measurement(step * index, rate) for index, rate in enumerate(rates, start=1)]


def history(rates: Rates5s, step: float = 5.0) -> History:
    return History.of(measurements(rates, step), step * len(rates), 1e9)


def noise(count: int, seed: int, level: float = 50 * MBIT, spread: float = 0.3) -> Rates5s:
    source = random.Random(seed)
    return [level * math.exp(source.gauss(0, spread)) for _ in range(count)]


def walk(count: int, seed: int, spread: float = 0.05) -> Rates5s:
    source, log = random.Random(seed), 17.0
    rates = []
    for _ in range(count):
        log += source.gauss(0, spread)
        rates.append(math.exp(log))
    return rates


# -- histories ---------------------------------------------------------------------------------------------------------


def test_history_sorts_and_leaves_out_what_is_no_measurement() -> None:
    entries = [
        Measurement(10, 3.0),
        Measurement(5, 2.0),
        Measurement(15, math.nan),
        Measurement(20, -1.0),
        Measurement(25, math.inf),
        Measurement(math.nan, 1.0),
        Measurement(99, 9.0),
    ]
    found = History.of(entries, now=50, window=100)
    assert (found.times, found.rates) == ((5, 10), (2.0, 3.0))


def test_history_is_of_the_window_and_the_newest_of_one_instant_counts() -> None:
    entries = [Measurement(1, 1.0), Measurement(50, 2.0), Measurement(60, 3.0), Measurement(60, 4.0)]
    assert History.of(entries, now=100, window=60).rates == (2.0, 4.0)


def test_lower_bounds_count_only_where_they_raise_what_is_known() -> None:
    entries = [
        Measurement(5, 10.0),
        Measurement(10, 2.0, limited=True),
        Measurement(15, 12.0, limited=True),
        Measurement(20, 11.0, limited=True),
        Measurement(25, 8.0),
    ]
    assert History.of(entries, 30, 100).rates == (10.0, 12.0, 8.0)


def test_nothing_but_lower_bounds_is_said_to_be_so() -> None:
    found = History.of([Measurement(5.0 * i, 3.0, limited=True) for i in range(20)], 100, 1000)
    assert len(found.rates) == 20
    assert any("never full" in doubt for doubt in found.doubts)


def test_long_histories_are_averaged() -> None:
    found = History.of([Measurement(float(i), 2.0 + i % 2) for i in range(5 * MOST)], 1e6, 1e9)
    assert len(found.rates) <= MOST
    assert all(2.0 <= rate <= 3.0 for rate in found.rates)
    assert list(found.times) == sorted(set(found.times))


def test_a_few_too_many_cost_the_oldest_and_not_the_newest() -> None:
    found = History.of([Measurement(5.0 * i, float(i)) for i in range(MOST + 5)], 1e6, 1e9)
    assert (len(found.rates), found.rates[-1]) == (MOST, MOST + 4)


@pytest.mark.parametrize(
    ("rates", "now", "doubt"),
    [
        ([1.0] * 3, 15.0, "only 3 measurements"),
        ([1.0] * 30, 86400.0, "nothing was measured for 86250 s"),
        ([10.0 + i % 3 for i in range(30)] + [90.0] * 6, 180.0, "has just changed"),
    ],
)
def test_doubts(rates: Rates5s, now: float, doubt: str) -> None:
    assert any(doubt in text for text in History.of(measurements(rates), now, 1e9).doubts)


def test_an_interruption_is_doubted_and_forgotten_after_a_while() -> None:
    times = [5.0 * i for i in range(40)] + [4000.0 + 5 * i for i in range(3)]
    entries = [Measurement(time, 1.0) for time in times]
    assert any("interrupted" in doubt for doubt in History.of(entries, 4011, 1e9).doubts)
    entries += [Measurement(4015.0 + 5 * i, 1.0) for i in range(20)]
    assert not History.of(entries, 4111, 1e9).doubts


# -- models ------------------------------------------------------------------------------------------------------------


def test_distribution_interpolates_and_extrapolates() -> None:
    said = Distribution.of([float(index) for index in range(1, len(LEVELS) + 1)])
    assert said.median == 6.0
    assert said.at(0.5) == 6.0
    assert said.at(0.975) == pytest.approx(10.0)
    assert 10.0 < said.at(0.98) < 11.0
    assert said.at(0.999) > 11.0
    assert 0.0 <= said.at(0.0001) < 1.0


def test_distribution_refuses_what_is_no_number() -> None:
    with pytest.raises(ValueError, match="no numbers"):
        Distribution.of([math.nan] * len(LEVELS))


def test_ewma_takes_the_half_life_that_suits_the_link() -> None:
    calm = history(noise(400, 1))
    assert Ewma().predict(calm, 6).median == pytest.approx(50 * MBIT, rel=0.2)
    moving = history(walk(400, 1))
    assert Ewma().predict(moving, 6).median == pytest.approx(moving.rates[-1], rel=0.15)


@pytest.mark.parametrize("model", [Last(), Ewma()], ids=lambda model: model.name)
def test_little_history_means_a_wide_interval(model: Model) -> None:
    few, many = (model.predict(history(noise(count, 3, spread=0.05)), 6) for count in (2, 300))

    def width(said: Distribution) -> float:
        return (said.at(0.975) - said.at(0.025)) / said.median

    assert width(few) > 1.5 * width(many)


def test_arima_finds_an_autoregression() -> None:
    pytest.importorskip("numpy")
    from dwcp.forecast.arima import Arima

    source, level, kept = random.Random(5), 0.0, 0.9
    rates = []
    for _ in range(700):
        level = kept * level + source.gauss(0, 1)
        rates.append((50 + level * 4) * MBIT)
    said = Arima().predict(history(rates), 1)
    mean = sum(rates) / len(rates)
    assert said.median == pytest.approx(mean + kept * (rates[-1] - mean), abs=1.5 * MBIT)
    # one step has a deviation of 4 Mbit/s
    assert said.at(0.975) - said.at(0.025) == pytest.approx(2 * 1.96 * 4 * MBIT, rel=0.15)


def test_arima_bears_a_constant_link_and_says_no_to_a_short_history() -> None:
    pytest.importorskip("numpy")
    from dwcp.forecast.arima import Arima

    assert Arima().predict(history([5 * MBIT] * 50), 60).median == pytest.approx(5 * MBIT, rel=0.01)
    with pytest.raises(ValueError, match="needs 16"):
        Arima().predict(history([5 * MBIT] * 15), 60)


# -- calibration -------------------------------------------------------------------------------------------------------


def _coverage(spread: Callable[[int], float], count: int, believed: float) -> list[bool]:
    """Of a model that is sure that deviations are `believed`, on a link where they are `spread`."""
    source, calibration, inside = random.Random(2), Calibration(), []
    normal = (-2.576, -1.960, -1.645, -1.150, -0.674, 0.0, 0.674, 1.150, 1.645, 1.960, 2.576)
    said = Distribution.of([100.0 + z * believed for z in normal])
    for index in range(count):
        outcome = 100.0 + source.gauss(0, spread(index))
        low, high = calibration.interval(said, 0.95)
        inside.append(low <= outcome <= high)
        calibration.observe(said, 0.95, outcome, 1.0)
    return inside


def test_calibration_holds_its_level_on_a_link_that_drifts() -> None:
    inside = _coverage(lambda index: 4.0 + 4.0 * math.sin(index / 300), 6000, believed=3.0)
    assert 0.93 <= sum(inside) / len(inside) <= 0.97


def test_calibration_narrows_what_was_too_wide() -> None:
    inside = _coverage(lambda _: 5.0, 3000, believed=8.0)
    assert 0.93 <= sum(inside[1000:]) / 2000 <= 0.97


def test_overlapping_outcomes_teach_no_more_than_one() -> None:
    said = Distribution.of([100.0 + index for index in range(-5, 6)])
    once, often = Calibration(), Calibration()
    once.observe(said, 0.95, 200.0, 1.0)
    for _ in range(10):
        often.observe(said, 0.95, 200.0, 0.1)
    assert often.high == pytest.approx(once.high)


# -- the forecaster ----------------------------------------------------------------------------------------------------


class Fixed:
    """Says the same whatever the link does."""

    def __init__(self, name: str, rate: float) -> None:
        self.name = name
        self._rate = rate

    def predict(self, history: History, steps: int) -> Distribution:
        return Distribution.of([self._rate * (1 + index / 100) for index in range(-5, 6)])


class Broken:
    name = "broken"

    def predict(self, history: History, steps: int) -> Distribution:
        raise ZeroDivisionError


def _run(models: list[Model], rates: Rates5s) -> LinkForecaster:
    forecaster = LinkForecaster(models, Settings(30.0, 3600.0, 0.95))
    known = measurements(rates)
    for count in range(1, len(known) + 1):
        forecaster.update(known[:count], known[count - 1].time)
    return forecaster


def test_the_model_that_was_right_lately_speaks() -> None:
    forecaster = LinkForecaster([Fixed("a", 10.0), Fixed("b", 20.0)], Settings(30.0, 3600.0, 0.95))
    known = measurements([20.0] * 60 + [10.0] * 120)
    names = []
    for count in range(1, len(known) + 1):
        forecast = forecaster.update(known[:count], known[count - 1].time)
        assert forecast is not None
        names.append(forecast.model)
    assert names[50] == "b"
    assert names[-1] == "a"


def test_chance_does_not_change_the_model() -> None:
    """Two that are as good as each other, on average."""
    kept = 0
    for seed in range(5):
        forecaster = LinkForecaster([Fixed("a", 9.0), Fixed("b", 11.0)], Settings(30.0, 3600.0, 0.95))
        known = measurements(noise(200, seed, level=10.0, spread=0.2))
        names = [forecaster.update(known[:count], known[count - 1].time) for count in range(1, len(known) + 1)]
        kept += sum(forecast is not None and forecast.model == "a" for forecast in names)
    assert kept > 0.75 * 5 * 200


def test_a_link_that_wanders_is_forecast_by_its_last_value() -> None:
    rates = walk(400, 1, spread=0.2)
    forecaster = LinkForecaster([Fixed("mean", sum(rates) / len(rates)), Last()], Settings(30.0, 3600.0, 0.95))
    known = measurements(rates)
    for count in range(1, len(known) + 1):
        forecast = forecaster.update(known[:count], known[count - 1].time)
    assert forecast is not None
    assert forecast.model == "last"


def test_a_model_that_fails_is_passed_over() -> None:
    forecaster = _run([Broken(), Last()], [10.0] * 5)
    assert forecaster.score.models["last"] == pytest.approx(1.0)
    alone = LinkForecaster([Broken()], Settings(30.0, 3600.0, 0.95)).update(measurements([7.0]), 5.0)
    assert alone is not None
    assert (alone.model, alone.rate) == ("last", 7.0)


def test_score_counts_what_came_true() -> None:
    score = _run([Ewma()], noise(300, 4)).score
    assert score.outcomes == 300 - 6
    assert 0.85 <= score.covered / score.outcomes <= 1.0
    assert 0 < score.error < score.last_error


def test_replay_teaches_as_much_as_having_been_there() -> None:
    rates = noise(300, 4)
    forecaster = LinkForecaster([Ewma()], Settings(30.0, 3600.0, 0.95))
    forecaster.replay(measurements(rates), 1500.0, every=30.0)
    assert forecaster.score.outcomes >= 20
    assert forecaster.score.error < forecaster.score.last_error


def test_replay_is_bounded() -> None:
    forecaster = LinkForecaster([Last()], Settings(30.0, 86400.0, 0.95))
    forecaster.replay(measurements(noise(3000, 4)), 15000.0, every=1.0, most=10)
    assert forecaster.score.outcomes <= 10


def test_a_clock_that_is_set_back_drops_what_was_pending() -> None:
    forecaster = LinkForecaster([Last()], Settings(30.0, 3600.0, 0.95))
    known = measurements([10.0] * 20)
    assert forecaster.update(known, 100.0) is not None
    assert forecaster.update(known, 50.0) is not None
    forecaster.update(known, 85.0)
    assert forecaster.score.outcomes == 1


def test_silence_widens_the_interval() -> None:
    forecaster = LinkForecaster([Ewma()], Settings(30.0, 86400.0, 0.95))
    known = measurements(noise(100, 6))
    fresh, stale = forecaster.update(known, 500.0), forecaster.update(known, 5000.0)
    assert fresh is not None
    assert stale is not None
    assert stale.high - stale.low > 2 * (fresh.high - fresh.low)
    assert stale.doubts


def test_nothing_measured_means_no_forecast() -> None:
    assert LinkForecaster([Last()], Settings(30.0, 3600.0, 0.95)).update([], 5.0) is None


# -- around it ---------------------------------------------------------------------------------------------------------


def test_eta_is_a_range_that_holds_the_transfers_own_rate() -> None:
    rates = Rates(4e6, 8e6, 16e6)
    assert rates.seconds(1e6) == (0.5, 1.0, 2.0)
    assert rates.seconds(1e6, seen=3.0) == (0.5, 3.0, 3.0)
    assert Rates(0.0, 8e6, 16e6).seconds(1e6) == (0.5, 1.0, 50.0)
    assert math.isfinite(Rates(0.0, 0.0, 0.0).seconds(1e9)[2])


@pytest.mark.parametrize("works", [True, False])
def test_probes_keep_to_their_budget_whatever_becomes_of_them(works: bool) -> None:
    budget, sent, now = ProbeBudget(), [], 0.0
    while now < 3 * HOUR:
        size = budget.size("a", now, 12 << 20, 1e10, None)
        if size:
            budget.begun("a", now, size)
            sent.append((now, size))
            if works:
                budget.succeeded("a", now)
        now += 7.0
    for begin, _ in sent:
        within = sum(size for when, size in sent if begin <= when < begin + HOUR)
        assert within <= 12 << 20
    assert sum(size for _, size in sent) >= 3 * (12 << 20) * 0.9


def test_probes_leave_a_measured_link_alone_and_none_is_sent_without_a_budget() -> None:
    budget = ProbeBudget()
    assert budget.size("a", 0.0, 64 << 20, 1e7, age=EVERY / 2) == 0
    assert budget.size("a", 0.0, 64 << 20, 1e7, age=EVERY) > 0
    assert budget.size("a", 0.0, 0, None, None) == 0


def _sample(rates: list[tuple[int, bool]], allowed: float | None = None) -> list[Stretch]:
    """One look a second; `rates` in bytes."""
    sampler, delivered, found = Sampler(0.0), 0, []
    for second, (rate, starved) in enumerate(rates, start=1):
        delivered += rate
        stretch = sampler.observe(float(second), Counts(delivered, 0, 0.02, starved, allowed))
        if stretch is not None:
            found.append(stretch)
    return found


def test_a_transfer_is_measured_each_five_seconds_after_its_beginning() -> None:
    found = _sample([(10, False)] * 2 + [(1000, False)] * 11)
    assert [(stretch.seconds, stretch.rate, stretch.limited) for stretch in found] == [(5.0, 8000.0, False)] * 2


def test_a_transfer_without_work_or_held_back_measures_a_lower_bound() -> None:
    assert [stretch.limited for stretch in _sample([(1000, index % 3 == 0) for index in range(8)])] == [True]
    assert [stretch.limited for stretch in _sample([(1000, False)] * 8, allowed=8100)] == [True]
    assert [stretch.limited for stretch in _sample([(1000, False)] * 8, allowed=80000)] == [False]


def test_what_is_left_of_a_transfer_is_a_lower_bound() -> None:
    sampler = Sampler(0.0)
    for second in (1.0, 2.0, 3.0):
        assert sampler.observe(second, Counts(int(second) * 1000)) is None
    rest = sampler.finish(4.0, Counts(4000))
    assert rest is not None
    assert (rest.rate, rest.limited) == (8000.0, True)
    assert sampler.finish(4.1, Counts(4100)) is None
