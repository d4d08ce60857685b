"""What people forecast with today. What there is to tune is tuned on the training series, for each case."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.forecast_cases import Job, Rates

HALF_LIVES = (0.5, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
WIDTHS = (2, 3, 5, 8, 12, 24, 48, 96, 180, 360, 720)
TRAINED_ON = 4000
"""Windows on which something is tuned, spread evenly over all."""
SEARCHED_ON = 40
"""Windows on which the searching models are judged: they need up to a second for each."""

Point = Callable[[Rates], float]


@dataclass(frozen=True)
class Window:
    history: Rates
    outcome: float


def sample(jobs: Sequence[Job], most: int) -> list[Window]:
    places = [(job, instant) for job in jobs for instant in job.instants]
    chosen = np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).astype(int)) if places else []
    return [Window(places[i][0].history(places[i][1]), places[i][0].outcome(places[i][1])) for i in chosen]


def error(point: Point, windows: Sequence[Window]) -> float:
    return float(np.mean([abs(point(window.history) - window.outcome) for window in windows]))


def last(history: Rates) -> float:
    return float(history[-1])


def harmonic(history: Rates) -> float:
    """Of the newest five, as players of video estimate their throughput."""
    newest = np.maximum(history[-5:], 1e-6)
    return float(len(newest) / (1 / newest).sum())


def average(width: int) -> Point:
    return lambda history: float(history[-width:].mean())


def ewma(half_life: float) -> Point:
    kept = 0.5 ** (1 / half_life)

    def point(history: Rates) -> float:
        weight = kept ** np.arange(len(history))[::-1]
        return float((history * weight).sum() / weight.sum())

    return point


def tuned(family: Callable[..., Point], settings: Sequence[float], windows: Sequence[Window]) -> tuple[Point, float]:
    best = min(settings, key=lambda setting: error(family(setting), windows))
    return family(best), best


def volatility(history: Rates, half_life: float) -> float:
    """Exponentially weighted deviation of each measurement from the average before it."""
    new = 1 - 0.5 ** (1 / half_life)
    level, square = float(history[0]), 0.0
    for rate in history[1:]:
        off = float(rate) - level
        square += new * (off * off - square)
        level += new * off
    return float(np.sqrt(square))


NORMAL = 1.96
"""Deviations of a normal distribution that hold 95%."""


def deviations(point: Point, half_life: float, windows: Sequence[Window]) -> float:
    """As many as hold 95% of the training outcomes."""
    scores = [
        abs(point(window.history) - window.outcome) / (volatility(window.history, half_life) + 1e-9)
        for window in windows
    ]
    return float(np.quantile(scores, 0.95))


def scaled_interval(point: Point, half_life: float, factor: float) -> Callable[[Rates], tuple[float, float]]:
    """The forecast and so many deviations to either side."""

    def interval(history: Rates) -> tuple[float, float]:
        middle, width = point(history), factor * volatility(history, half_life)
        return max(0.0, middle - width), middle + width

    return interval


def statistical(name: str, steps: int) -> Point:
    """AutoARIMA or AutoETS of statsforecast. Raises ImportError without it."""
    import statsforecast.models as models

    model = getattr(models, name)(season_length=1)

    def point(history: Rates) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = model.forecast(y=history, h=steps)["mean"]
        return float(np.mean(said))

    return point


def boosted(windows: Sequence[Window], steps: int) -> Callable[[Sequence[Rates]], Rates]:
    """LightGBM on what the network sees as scalars, for the error relative to the mean. Raises ImportError."""
    import lightgbm

    inputs, outcomes = _features([window.history for window in windows], steps)
    wanted = np.array([window.outcome for window in windows]) / outcomes
    data = lightgbm.Dataset(inputs, wanted)
    settings = {
        "objective": "l1",
        "learning_rate": 0.05,
        "num_leaves": 15,
        "min_data_in_leaf": 50,
        "feature_fraction": 0.5,
        "bagging_fraction": 0.7,
        "bagging_freq": 1,
        "num_threads": 1,
        "seed": 1,
        "verbose": -1,
    }
    model = lightgbm.train(settings, data, num_boost_round=300)

    def points(histories: Sequence[Rates]) -> Rates:
        features, units = _features(histories, steps)
        return np.maximum(0.0, np.asarray(model.predict(features))) * units

    return points


def _features(histories: Sequence[Rates], steps: int) -> tuple[Rates, Rates]:
    from dwcp.forecast.features import build
    from dwcp.forecast.history import MOST

    built = [build(history[None, -MOST:], steps) for history in histories]
    rows = [np.concatenate([entry.scalars[0], entry.bank[0]]) for entry in built]
    return np.stack(rows).astype(np.float64), np.array([entry.unit[0] for entry in built], np.float64)
