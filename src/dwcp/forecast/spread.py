"""How far off a point forecast is: by what it would have said before, on the same history."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from dwcp.forecast.distribution import Distribution
from dwcp.forecast.history import History

UNTRIED = 0.5
"""Mean error, relative to the level, of a forecast for a link of which nothing is known yet: about what the last value
is off by on mobile links."""
TRUST = 1.0
"""Outcomes that the history must hold to weigh as much as UNTRIED."""
LEAST = 0.005
"""Of the level: no link is steadier than what is measured of it."""
TAILS = (-5.2, -3.1, -2.4, -1.5, -0.75, 0.0, 0.75, 1.5, 2.4, 3.1, 5.2)
"""Quantiles at LEVELS in units of the mean absolute error: between normal (2.46 at 0.975) and Laplace (3.0), and wider
because the error is itself estimated. What is left to be desired the calibration learns."""


def outcomes(history: History, steps: int) -> list[float]:
    """Mean of the `steps` rates from each index on, as far as there are as many."""
    sums = list(accumulate(history.rates, initial=0.0))
    return [(sums[index + steps] - sums[index]) / steps for index in range(len(history.rates) - steps + 1)]


def error_of(points: Sequence[float], actual: Sequence[float]) -> tuple[float, int]:
    """(mean absolute error, of how many) of `points`, each said after the rate of its index and before the next."""
    errors = [abs(point - outcome) for point, outcome in zip(points, actual[1:], strict=False)]
    return (math.fsum(errors) / len(errors), len(errors)) if errors else (0.0, 0)


def around(point: float, history: History, error: float, count: int, steps: int) -> Distribution:
    """A distribution around `point` for a model whose error was `error` in `count` overlapping outcomes."""
    level = max(point, math.fsum(history.rates) / len(history.rates))
    independent = count / steps
    expected = (error * independent + UNTRIED * level * TRUST) / (independent + TRUST)
    expected = max(expected, LEAST * level)
    return Distribution.of([around_zero(point, tail * expected) for tail in TAILS])


def around_zero(point: float, offset: float) -> float:
    """`point` + `offset`, bent so that it never falls below 0: rates are as likely halved as doubled."""
    if offset >= 0 or point <= 0:
        return max(0.0, point + offset)
    return point * math.exp(offset / point)
