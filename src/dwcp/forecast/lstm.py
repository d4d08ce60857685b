"""A small recurrent network that weighs simple forecasts, corrects the result within bounds, and says how sure it is.

What it computes is in `dwcp.prediction.network`, which trains it; who runs it is somebody else's affair (`Network`).
numpy comes with the extra `prediction`, and is imported when this is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dwcp.forecast.distribution import Distribution
from dwcp.forecast.history import History

if TYPE_CHECKING:
    from dwcp.forecast.features import Array, Inputs

LEAST_RATE = 1000.0
"""Bits per second: what a link that stands still is measured against, so that it may also come back."""


class Network(Protocol):
    """Weights that can be asked."""

    def run(self, inputs: Inputs) -> Array:
        """(rows, len(LEVELS)): quantiles relative to the unit of each row."""
        ...


class Lstm:
    name = "lstm"

    def __init__(self, network: Network) -> None:
        self._network = network

    def predict(self, history: History, steps: int) -> Distribution:
        import numpy as np

        from dwcp.forecast.features import build

        rates = np.maximum(np.array([history.rates]), LEAST_RATE)
        inputs = build(rates, steps)
        quantiles = self._network.run(inputs)[0] * inputs.unit[0]
        return Distribution.of([float(value) for value in quantiles])
