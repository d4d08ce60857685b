"""What a model says: not one number, but how likely which rate is."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dwcp.forecast.history import HIGHEST_RATE, History

LEVELS = (0.005, 0.025, 0.05, 0.125, 0.25, 0.5, 0.75, 0.875, 0.95, 0.975, 0.995)
"""Where a distribution is known; what is asked in between, or beyond, is interpolated in the log of the odds."""
MIDDLE = LEVELS.index(0.5)
_ODDS = tuple(math.log(level / (1 - level)) for level in LEVELS)


@dataclass(frozen=True, slots=True)
class Distribution:
    """Of the mean rate over the horizon. `quantiles` in bits per second, one for each of LEVELS: finite, not negative,
    never falling. Made by `of`."""

    quantiles: tuple[float, ...]

    @staticmethod
    def of(values: Sequence[float]) -> Distribution:
        """Mends what rounding did to the order. Raises ValueError for what is no distribution."""
        if len(values) != len(LEVELS) or not all(math.isfinite(value) for value in values):
            raise ValueError("a model gave no numbers")
        return Distribution(tuple(sorted(min(HIGHEST_RATE, max(0.0, float(value))) for value in values)))

    @property
    def median(self) -> float:
        return self.quantiles[MIDDLE]

    def at(self, level: float) -> float:
        """The rate that is not exceeded with probability `level` (0 < level < 1)."""
        odds = math.log(level / (1 - level))
        right = min(len(LEVELS) - 1, max(1, bisect_left(_ODDS, odds)))
        low, high = self.quantiles[right - 1], self.quantiles[right]
        share = (odds - _ODDS[right - 1]) / (_ODDS[right] - _ODDS[right - 1])
        return max(0.0, low + share * (high - low))


class Model(Protocol):
    """One way to forecast. Stateless: everything it knows is the history."""

    @property
    def name(self) -> str: ...

    def predict(self, history: History, steps: int) -> Distribution:
        """Of the mean of the next `steps` measurements. `history` holds one at least.

        May raise ArithmeticError or ValueError where the numbers defeat it; the forecaster then asks another model.
        """
        ...
