"""When a workload is due. Times are wall-clock seconds since the epoch, because a schedule outlives the process.

A run that was missed while the node was down is made up for once, as anacron(8) does; it is not repeated for every
period that has passed.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cronsim import CronSim

MOST_SETTLING = 20
"""A source that never rests is sent anyway after so many times the settling time: late is better than never."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """`every` in seconds; `cron` a line of five fields (crontab(5)). Without both only a request runs it."""

    every: float | None = None
    cron: str = ""

    def next_due(self, since: float, last: float | None, zone: datetime.tzinfo | None = None) -> float | None:
        """`since`: when the workload was declared; `last`: when its newest run was asked for, None before the first.

        An interval begins with a run at once, a cron line with its first moment. `zone`: of the cron line; None is
        that of the process, with its daylight saving.
        """
        moments: list[float | None] = []
        if self.every is not None:
            moments.append(since if last is None else last + self.every)
        if self.cron:
            moments.append(_cron_after(self.cron, since if last is None else last, zone))
        found = [moment for moment in moments if moment is not None]
        return min(found) if found else None


def _cron_after(line: str, moment: float, zone: datetime.tzinfo | None) -> float | None:
    """None where no moment comes in the next fifty years."""
    following = next(CronSim(line, datetime.datetime.fromtimestamp(moment, zone)), None)
    return None if following is None else following.timestamp()


class Settling:
    """Turns single changes of a source into one moment at which it rests. Times are of one clock, in seconds."""

    def __init__(self, seconds: float) -> None:
        """`seconds` without a change make it rest."""
        self.seconds = seconds
        self._first: float | None = None
        self._newest = 0.0

    def changed(self, now: float) -> None:
        if self._first is None:
            self._first = now
        self._newest = now

    def due(self) -> float | None:
        """When the source is to be sent; None while nothing has changed."""
        if self._first is None:
            return None
        return min(self._newest + self.seconds, self._first + MOST_SETTLING * self.seconds)

    def taken(self) -> None:
        """A run was asked for: what changed until now is in it."""
        self._first = None
