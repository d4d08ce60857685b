"""Whatever is measured, forecasting neither raises nor says nonsense."""

from __future__ import annotations

import math
from importlib.util import find_spec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwcp.forecast.distribution import Model
from dwcp.forecast.ewma import Ewma
from dwcp.forecast.forecaster import LinkForecaster, Settings
from dwcp.forecast.history import HIGHEST_RATE, MOST, History, Measurement
from dwcp.forecast.last import Last

DAY = 86400.0
anything = st.floats(allow_nan=True, allow_infinity=True)
sane = st.floats(0, 1e12)
times = st.one_of(st.floats(0, DAY), st.floats(-DAY, 40 * DAY), anything)
entries = st.builds(Measurement, times, st.one_of(sane, anything), st.booleans())
steady = st.builds(
    lambda rate, step, count, noise: [Measurement(i * step, rate * (1 + noise * (i % 7))) for i in range(count)],
    sane,
    st.floats(0.001, 900),
    st.integers(1, 900),
    st.floats(0, 3),
)
histories = st.one_of(
    st.lists(entries, max_size=60), steady, st.builds(lambda a, b: [*a, *b], steady, st.lists(entries))
)


def _models() -> list[list[Model]]:
    kinds: list[list[Model]] = [[Last()], [Ewma()]]
    if find_spec("numpy"):
        from dwcp.forecast.arima import Arima

        kinds.append([Arima()])
    if find_spec("onnxruntime"):
        from dwcp.forecast.lstm import Lstm
        from dwcp.prediction.runtime import OnnxNetwork

        kinds += [[Lstm(OnnxNetwork())], [Lstm(OnnxNetwork()), Ewma(), *kinds[-1], Last()]]
    return kinds


@given(entries=histories, now=times, window=st.floats(60, 30 * DAY))
def test_histories_are_sane(entries: list[Measurement], now: float, window: float) -> None:
    history = History.of(entries, now, window)
    assert len(history.times) == len(history.rates) <= MOST
    assert all(later > sooner for sooner, later in zip(history.times, history.times[1:], strict=False))
    assert all(math.isfinite(rate) and 0 <= rate <= HIGHEST_RATE for rate in history.rates)
    assert history.step > 0
    assert history.steps(300) >= 1


@pytest.mark.parametrize("models", _models(), ids=lambda models: "+".join(model.name for model in models))
@settings(deadline=None, max_examples=60)
@given(
    entries=histories,
    clock=st.lists(st.one_of(st.floats(-DAY, DAY), anything), min_size=1, max_size=6),
    horizon=st.floats(1, 3600),
    confidence=st.floats(0.5, 0.999),
)
def test_forecasts_are_sane(
    models: list[Model], entries: list[Measurement], clock: list[float], horizon: float, confidence: float
) -> None:
    forecaster = LinkForecaster(models, Settings(horizon, 3600.0, confidence))
    now = max((entry.time for entry in entries if math.isfinite(entry.time)), default=0.0)
    forecaster.replay(entries, now, 30.0, most=8)
    for step in clock:
        now += step
        forecast = forecaster.update(entries, now)
        if forecast is None:
            continue
        assert 0 <= forecast.low <= forecast.rate <= forecast.high <= HIGHEST_RATE
        assert all(math.isfinite(rate) for rate in (forecast.low, forecast.rate, forecast.high))
        assert forecast.measurements >= 1
    score = forecaster.score
    assert 0 <= score.covered <= score.outcomes
    assert math.isfinite(score.error)
    assert all(math.isfinite(error) for error in score.models.values())
