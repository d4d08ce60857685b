"""Exponentially weighted moving average, with the half-life that would have been best on this link so far."""

from __future__ import annotations

import math

from dwcp.forecast.distribution import Distribution
from dwcp.forecast.history import History
from dwcp.forecast.spread import around, error_of, outcomes

HALF_LIVES = (1.0, 3.0, 8.0, 20.0, 60.0)
"""In measurements. Finer steps change the error by less than 1%."""
ENOUGH = 24
"""Outcomes before the link's own past decides on the half-life."""


class Ewma:
    name = "ewma"

    def predict(self, history: History, steps: int) -> Distribution:
        actual = outcomes(history, steps)
        best: tuple[float, int, float] | None = None
        usual = usual_half_life(steps)
        for half_life in HALF_LIVES:
            points = smoothed(history.rates, half_life)
            error, count = error_of(points, actual)
            if count < ENOUGH and half_life != usual:
                continue
            if best is None or error < best[0]:
                best = error, count, points[-1]
        if best is None:
            raise ValueError("no half-life is usual")
        error, count, point = best
        return around(point, history, error, count, steps)


def usual_half_life(steps: int) -> float:
    """The one that was best for such a horizon on the links that we have measurements of."""
    return next(half_life for half_life in (*HALF_LIVES, math.inf) if half_life >= min(steps, HALF_LIVES[-1]))


def smoothed(rates: tuple[float, ...], half_life: float) -> list[float]:
    """The average as of each rate."""
    new = 1.0 - 0.5 ** (1.0 / half_life)
    average, averages = rates[0], []
    for rate in rates:
        average += new * (rate - average)
        averages.append(average)
    return averages
