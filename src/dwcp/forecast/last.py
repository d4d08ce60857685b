"""The link goes on as it is: the newest measurement. What every other model has to beat."""

from __future__ import annotations

from dwcp.forecast.distribution import Distribution
from dwcp.forecast.history import History
from dwcp.forecast.spread import around, error_of, outcomes


class Last:
    name = "last"

    def predict(self, history: History, steps: int) -> Distribution:
        error, count = error_of(history.rates, outcomes(history, steps))
        return around(history.rates[-1], history, error, count, steps)
