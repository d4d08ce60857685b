"""Learns from what came true how wide an interval has to be, one link and one model at a time.

Adaptive conformal inference (Gibbs and Candès, "Adaptive conformal inference under distribution shift", NeurIPS 2021),
in the form that tracks the quantile of the score itself (Angelopoulos, Candès and Tibshirani, "Conformal PID control
for time series prediction", NeurIPS 2023): after each outcome the bound moves out if it was crossed, and a little in
if it was not, in the proportion at which misses balance at the wanted rate. That holds whatever the link does.

The score is a distance in units of the model's own interval, on either side for itself: links fall in other ways than
they rise. It is tracked in the logarithm, so that a bound is never crossed by its own correction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dwcp.forecast.distribution import Distribution

RATE = 0.2
"""Of learning, per independent outcome. A miss widens by up to this in the logarithm, 22%."""
NARROWEST, WIDEST = 0.5, 8.0
"""How far the correction may go: a link that was calm for a week must not make the interval vanish."""

SMALLEST = 1e-3
"""Of the median: a lower bound that is under it is as good as 0."""


@dataclass(slots=True)
class Calibration:
    """`low` and `high`: factors on the model's distances from its median."""

    low: float = 1.0
    high: float = 1.0

    def interval(self, said: Distribution, confidence: float, stretch: float = 1.0) -> tuple[float, float]:
        """Bounds in bits per second that should hold `confidence` of the outcomes."""
        tail = (1 - confidence) / 2
        above = said.at(1 - tail) - said.median
        # downwards in the logarithm: a rate is never below 0
        share = max(SMALLEST, said.at(tail) / said.median) if said.median > 0 else 1.0
        return said.median * share ** (self.low * stretch), said.median + above * self.high * stretch

    def observe(self, said: Distribution, confidence: float, outcome: float, independence: float) -> None:
        """`independence` (0 to 1): the share of `outcome` that no outcome before it was about."""
        low, high = self.interval(said, confidence)
        tail, pace = (1 - confidence) / 2, RATE * independence
        self.low = _moved(self.low, pace * ((outcome < low) - tail))
        self.high = _moved(self.high, pace * ((outcome > high) - tail))


def _moved(factor: float, by: float) -> float:
    return min(WIDEST, max(NARROWEST, factor * math.exp(by)))
