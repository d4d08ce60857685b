"""Which rate applies at an hour of the week: links are shared with people who work by day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Period:
    """`begin` to `end` in minutes of the day, on `days` (0 is Monday); where `end` is not later it is on the next day.
    `rate` in bits per second."""

    days: frozenset[int]
    begin: int
    end: int
    rate: int

    def covers(self, day: int, minute: int) -> bool:
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        # over midnight: the evening of its own days, and the morning after
        return (day in self.days and minute >= self.begin) or ((day - 1) % 7 in self.days and minute < self.end)


def rate_at(periods: Sequence[Period], day: int, minute: int) -> int | None:
    """Of the first period that covers the moment; None when none does."""
    return next((period.rate for period in periods if period.covers(day, minute)), None)
