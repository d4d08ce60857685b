"""A series and the band of its forecast, in the characters of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dwcp.units import format_rate

WIDTH, HEIGHT = 60, 12
AHEAD = 12
"""Of the columns: the forecast's, whatever its share of the time is."""
MEASURED, MEDIAN, WITHIN = "•", "─", "░"


@dataclass(frozen=True, slots=True)
class Chart:
    """`history`: (seconds, bits per second), oldest first. `band`: (from, to, low, rate, high) of the forecast."""

    history: Sequence[tuple[float, float]]
    band: tuple[float, float, float, float, float] | None

    @property
    def top(self) -> float:
        """The highest rate on it."""
        return max([rate for _, rate in self.history] + ([self.band[4]] if self.band else []), default=0.0) or 1.0


def draw(chart: Chart) -> str:
    """Lines of WIDTH columns beside a scale from 0 to the highest rate."""
    cells = [[" "] * WIDTH for _ in range(HEIGHT)]
    columns = WIDTH - AHEAD if chart.band else WIDTH
    if chart.history:
        first, last = chart.history[0][0], chart.history[-1][0]
        for when, rate in chart.history:
            place = (when - first) / (last - first) if last > first else 1.0
            cells[_row(rate, chart.top)][round(place * (columns - 1))] = MEASURED
    if chart.band:
        _, _, low, rate, high = chart.band
        for row in range(_row(high, chart.top), _row(low, chart.top) + 1):
            cells[row][columns:] = [WITHIN] * AHEAD
        cells[_row(rate, chart.top)][columns:] = [MEDIAN] * AHEAD
    labels = {0: format_rate(chart.top), HEIGHT - 1: format_rate(0.0)}
    lines = [f"{labels.get(number, ''):>12} │{''.join(row)}" for number, row in enumerate(cells)]
    return "\n".join(line.rstrip() for line in lines)


def _row(rate: float, top: float) -> int:
    return HEIGHT - 1 - min(HEIGHT - 1, max(0, round(rate / top * (HEIGHT - 1))))
