"""What is asked of a forecast: which series, how much history, how far ahead. Nothing here looks past an instant."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dwcp.prediction.traces import Series, by_family, is_even

Rates = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """`window` and `horizon` in seconds; without, all of the past and the next measurement. `every`: from one to the
    next."""

    name: str
    window: float | None
    horizon: float | None
    every: float
    goals: tuple[float, float, float]
    """At most: error / last value, error / tuned EWMA, interval score / EWMA scaled by volatility."""


CASES = (
    Case("1 h -> next 5 min", 3600, 300, 60, (0.62, 0.98, 0.85)),
    Case("1 h -> next 30 s", 3600, 30, 60, (0.87, 0.92, 0.77)),
    Case("2 min -> next 30 s", 120, 30, 30, (0.64, 0.95, 0.84)),
    Case("probes -> next probe", None, None, 0, (0.81, 0.95, 0.94)),
)
FIRST_PROBES = 8
"""Probes before the first forecast."""
LATE = 1.4
"""Usual distances between probes within which the next one usually comes."""


@dataclass(frozen=True)
class Job:
    """One series of one case."""

    series: Series
    window: float
    """Seconds."""
    horizon: float
    steps: int
    instants: tuple[int, ...]
    """A forecast at i knows measurements 0 to i - 1, and is about i to i + steps - 1."""

    def history(self, instant: int) -> Rates:
        now = self.series.times[instant - 1]
        first = next(i for i in range(instant) if self.series.times[i] > now - self.window)
        return np.array(self.series.rates[first:instant])

    def outcome(self, instant: int) -> float:
        return statistics.fmean(self.series.rates[instant : instant + self.steps])


def jobs(case: Case, series: list[Series]) -> Iterator[Job]:
    """Those of `series` that the case can be asked of."""
    for members in by_family(series).values():
        even = is_even(members)
        long = even and statistics.median(entry.times[-1] - entry.times[0] for entry in members) > 3600 + 300
        for entry in members:
            if case.window is None and not even:
                yield from _probes(entry)
            elif even and case.window is not None and case.horizon is not None and long == (case.window > 120):
                yield from _evenly(case, entry, case.window, case.horizon)


def _probes(series: Series) -> Iterator[Job]:
    instants = tuple(range(FIRST_PROBES, len(series.times)))
    if instants:
        usual = statistics.median(b - a for a, b in zip(series.times, series.times[1:FIRST_PROBES], strict=False))
        yield Job(series, 1e9, LATE * usual, 1, instants)


def _evenly(case: Case, series: Series, window: float, horizon: float) -> Iterator[Job]:
    step = series.step
    first, steps, stride = round(window / step), round(horizon / step), max(1, round(case.every / step))
    instants = tuple(range(first, len(series.rates) - steps + 1, stride))
    if steps and first >= 4 and instants:
        yield Job(series, window, horizon, steps, instants)


def strung(series: list[Series], seconds: float) -> list[Series]:
    """Short series of one group one after the other, as a link that is used for hours: there are few long ones."""
    made: list[Series] = []
    for family, members in sorted(by_family(series).items()):
        if not is_even(members) or statistics.median(entry.times[-1] for entry in members) > seconds:
            continue
        parts: list[Series] = []
        for entry in sorted(members, key=lambda entry: (entry.group, entry.name)):
            parts.append(entry)
            rates = tuple(rate for part in parts for rate in part.rates)
            if len(rates) * entry.step > seconds:
                times = tuple(entry.step * index for index in range(len(rates)))
                made.append(replace(parts[0], family=f"{family} strung", times=times, rates=rates))
                parts = []
    return made
