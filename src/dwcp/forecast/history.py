"""What was measured of a link, made fit to be forecast from.

Measurements come from transfers and probes and are not to be trusted: a clock may have stepped, a rate may be no number
at all, a link may have been away for a day. `History.of` is the only way in for them. It never raises, and gives what
is in order, finite and bounded, with the reasons for doubt beside it.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

MOST = 720
"""Measurements that a model looks at: an hour of one each 5 s, which is what the models were measured with."""
SLACK = 1.1
"""Times as many from which on all are averaged: that hides the newest one, which says more than the oldest."""
HIGHEST_RATE = 1e14
"""Bits per second, a hundred times what any interface carries: above it a measurement is an error of somebody's."""
GAP = 12
"""Usual distances between measurements from which on nothing was heard of the link for a while: a minute of 5 s."""
SHIFT_OF = 6
"""Newest measurements that have to lie outside of all before them for the link to count as changed."""
FEW = 12
"""Measurements below which a model has hardly anything to go by: a minute of 5 s."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """`rate` in bits per second, at `time` in seconds of any clock that all of one history share."""

    time: float
    rate: float
    limited: bool = False
    """The sender had nothing more to send: the link carried at least `rate`, and nobody knows how much more."""


@dataclass(frozen=True, slots=True)
class History:
    """In order of time, strictly rising. Made by `of`."""

    times: tuple[float, ...]
    rates: tuple[float, ...]
    """Bits per second, finite, not negative; as long as `times`."""
    step: float
    """Usual seconds between two of them, above 0."""
    doubts: tuple[str, ...] = ()
    """Why a forecast from it deserves less trust than its interval says; for people."""

    @staticmethod
    def of(measurements: Iterable[Measurement], now: float, window: float, most: int = MOST) -> History:
        """What of `measurements` is within `window` seconds before `now`, at most `most` of them, averaged to that."""
        usable = sorted(
            (entry for entry in measurements if _is_sane(entry) and now - window <= entry.time <= now),
            key=lambda entry: entry.time,
        )
        # of several at one instant, which only a clock that was set back makes, the newest counts
        usable = list({entry.time: entry for entry in usable}.values())
        kept = _without_idle(usable)
        doubts = []
        if usable and all(entry.limited for entry in usable):
            doubts.append("the link was never full: it carries at least this")
        points = [(entry.time, entry.rate) for entry in kept]
        points = points[-most:] if len(points) <= most * SLACK else _averaged(points, most)
        times, rates = tuple(time for time, _ in points), tuple(rate for _, rate in points)
        distances = [later - sooner for sooner, later in itertools.pairwise(times)]
        step = statistics.median(distances) if distances else min(window, 5.0)
        doubts.extend(_doubts(times, rates, step, now))
        return History(times, rates, step, tuple(doubts))

    def steps(self, horizon: float) -> int:
        """How many measurements `horizon` seconds usually hold; at least 1."""
        return max(1, round(min(horizon / self.step, 1e6)))

    def age(self, now: float) -> float:
        """Seconds since the newest measurement; infinite without one."""
        return max(0.0, now - self.times[-1]) if self.times else math.inf


def _is_sane(entry: Measurement) -> bool:
    return math.isfinite(entry.time) and math.isfinite(entry.rate) and 0 <= entry.rate <= HIGHEST_RATE


def _without_idle(entries: list[Measurement]) -> list[Measurement]:
    """Leaves out lower bounds that bound nothing: those below what was measured last. With nothing else, all stay."""
    if all(entry.limited for entry in entries):
        return entries
    kept: list[Measurement] = []
    known = next(entry.rate for entry in entries if not entry.limited)
    for entry in entries:
        if entry.limited and entry.rate <= known:
            continue
        known = entry.rate
        kept.append(entry)
    return kept


def _averaged(points: list[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Means over equal stretches of time; stretches without a measurement have none."""
    first, last = points[0][0], points[-1][0]
    width = (last - first) / most
    bins: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        bins.setdefault(min(most - 1, int((point[0] - first) / width)), []).append(point)
    return [(members[-1][0], statistics.fmean(rate for _, rate in members)) for members in bins.values()]


def _doubts(times: tuple[float, ...], rates: tuple[float, ...], step: float, now: float) -> list[str]:
    if not times:
        return ["nothing is known of the link"]
    doubts = []
    if len(times) < FEW:
        doubts.append(f"only {len(times)} measurements")
    silence = now - times[-1]
    if silence > GAP * step:
        doubts.append(f"nothing was measured for {silence:.0f} s")
    recent = times[-SHIFT_OF - 1 :]
    if any(later - sooner > GAP * step for sooner, later in itertools.pairwise(recent)):
        doubts.append("measuring was interrupted a moment ago")
    before, after = rates[:-SHIFT_OF], rates[-SHIFT_OF:]
    if len(before) >= FEW and (min(after) > max(before) or max(after) < min(before)):
        doubts.append("the link has just changed")
    return doubts
