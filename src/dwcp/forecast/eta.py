"""How long a transfer still takes, as a range."""

from __future__ import annotations

from dataclasses import dataclass

from dwcp.forecast.forecaster import Forecast

SLOWEST = 1000.0
"""Bits per second that a link is counted with at least, so that a range has an end."""
LEAST_SHARE = 0.02
"""Of the expected rate, likewise: an interval that reaches down to nothing would tell of days and mean seconds."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Bits per second on the wire that a link is forecast to carry."""

    low: float
    rate: float
    high: float

    @staticmethod
    def of(forecast: Forecast) -> Rates:
        return Rates(forecast.low, forecast.rate, forecast.high)

    def seconds(self, left: float, seen: float | None = None) -> tuple[float, float, float]:
        """(at best, expected, at worst) for `left` bytes on the wire.

        `seen`: seconds by the transfer's own rate so far, which knows what else than the link slows it down. It is the
        expectation then, and the range holds it.
        """
        least = max(SLOWEST, self.rate * LEAST_SHARE)
        best, expected, worst = (left * 8 / max(rate, least) for rate in (self.high, self.rate, self.low))
        if seen is None:
            return best, expected, worst
        return min(best, seen), seen, max(worst, seen)
