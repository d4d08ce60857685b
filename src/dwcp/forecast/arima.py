"""ARIMA(p, d, q) by two regressions: one forecast costs no iteration, and cannot fail to converge.

Hannan and Rissanen, "Recursive estimation of mixed autoregressive-moving average order" (Biometrika 69, 1982): a long
autoregression gives the innovations, then a second regression on lags of both gives the coefficients. The order is the
one of ORDERS with the least AIC. numpy comes with the extra `prediction`, and is imported when this is used.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dwcp.forecast.distribution import Distribution
from dwcp.forecast.history import History
from dwcp.forecast.spread import LEAST, around_zero

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.floating]

ORDERS = ((1, 0, 0), (1, 0, 1), (2, 0, 2), (0, 1, 1), (1, 1, 1))
LEAST_MEASUREMENTS = 16
"""Below it the regressions have more coefficients than they have independent equations."""
LONG = 12
"""Lags of the first regression: enough to whiten what ORDERS can describe."""
RIDGE = 1e-6
"""Of the mean square: keeps a constant history solvable."""
FARTHEST = 1000
"""Steps that are followed; the mean over more is that of these, which have long converged."""
NORMAL = (-2.576, -1.960, -1.645, -1.150, -0.674, 0.0, 0.674, 1.150, 1.645, 1.960, 2.576)
"""Standard normal quantiles at LEVELS."""


class Arima:
    name = "arima"

    def predict(self, history: History, steps: int) -> Distribution:
        """Raises ValueError for histories that are too short."""
        import numpy as np

        if len(history.rates) < LEAST_MEASUREMENTS:
            raise ValueError(f"arima needs {LEAST_MEASUREMENTS} measurements")
        rates = np.asarray(history.rates)
        unit = max(float(rates.mean()), 1.0)
        series = rates / unit
        fits = [_Fit.of(series, *order) for order in ORDERS]
        best = min((fit for fit in fits if fit is not None), key=lambda fit: fit.aic, default=None)
        if best is None:
            raise ValueError("no order of arima fits")
        mean, deviation = best.ahead(min(steps, FARTHEST))
        # a regression may see a trend that goes on for ever, a link has limits
        point = float(np.clip(mean, series.min(), series.max()))
        deviation = max(deviation, LEAST * point, LEAST)
        return Distribution.of([around_zero(point, normal * deviation) * unit for normal in NORMAL])


class _Fit:
    """One order. `ahead` follows it into the future."""

    def __init__(
        self, series: Vector, d: int, constant: float, ar: Vector, ma: Vector, errors: Vector, recent: Vector
    ) -> None:
        self._last = float(series[-1])
        self._d = d
        self._constant, self._ar, self._ma = constant, ar, ma
        self._recent, self._errors = recent, errors
        self._variance = float((errors**2).mean()) + 1e-12
        self.aic = len(errors) * math.log(self._variance) + 2 * (1 + len(ar) + len(ma))

    @staticmethod
    def of(series: Vector, p: int, d: int, q: int) -> _Fit | None:
        """None where the coefficients would make it explode."""
        import numpy as np

        values = np.diff(series) if d else series
        long = min(LONG, len(values) // 4)
        innovations = np.concatenate([np.zeros(long), _regress(_lags(values, long), values[long:])[1]])
        start = long + max(p, q)
        columns = [values[start - lag : len(values) - lag] for lag in range(1, p + 1)]
        columns += [innovations[start - lag : len(values) - lag] for lag in range(1, q + 1)]
        ones = np.ones(len(values) - start)
        coefficients, errors = _regress(np.column_stack([ones, *columns]), values[start:])
        constant, ar, ma = float(coefficients[0]), coefficients[1 : 1 + p], coefficients[1 + p :]
        if d:
            constant = 0.0
        if p and float(np.abs(np.roots([1.0, *(-ar)])).max(initial=0.0)) >= 1.0:
            return None
        return _Fit(series, d, constant, ar, ma, errors, values)

    def ahead(self, steps: int) -> tuple[float, float]:
        """(mean of the next `steps` values, standard deviation of that mean)."""
        p, q = len(self._ar), len(self._ma)
        ar, ma = [float(value) for value in self._ar], [float(value) for value in self._ma]
        values = [float(value) for value in self._recent[len(self._recent) - p :]] if p else []
        errors = [float(value) for value in self._errors[len(self._errors) - q :]] if q else []
        weights: list[float] = []
        level, total = self._last, 0.0
        for step in range(steps):
            value = self._constant + sum(a * values[-1 - lag] for lag, a in enumerate(ar))
            value += sum(b * errors[-1 - lag] for lag, b in enumerate(ma) if lag < len(errors))
            values.append(value)
            errors.append(0.0)
            level = level + value if self._d else value
            total += level
            weight = 1.0 if step == 0 else sum(a * weights[step - 1 - lag] for lag, a in enumerate(ar) if lag < step)
            weights.append(weight + (ma[step - 1] if 0 < step <= q else 0.0))
        # an innovation at step k moves every level from there on by the weights, summed up once more for d = 1
        reach, gathered, square = 0.0, 0.0, 0.0
        for weight in weights:
            gathered = gathered + weight if self._d else weight
            reach += gathered
            square += reach * reach
        return total / steps, math.sqrt(square * self._variance) / steps


def _lags(values: Vector, count: int) -> Vector:
    import numpy as np

    columns = [values[count - lag : len(values) - lag] for lag in range(1, count + 1)]
    return np.column_stack([np.ones(len(values) - count), *columns])


def _regress(design: Vector, target: Vector) -> tuple[Vector, Vector]:
    """(coefficients, residuals)."""
    import numpy as np

    square = design.T @ design
    square += RIDGE * max(float(np.trace(square)) / len(square), 1e-9) * np.eye(len(square))
    coefficients: Vector = np.linalg.solve(square, design.T @ target)
    return coefficients, target - design @ coefficients
