"""Makes measurements of what a transfer counts."""

from __future__ import annotations

from dataclasses import dataclass

WIDTH = 5.0
"""Seconds that one measurement is about: what the models were measured with."""
LEAST = 1.0
"""Seconds of a last, shorter one: below, the link's queue decides more than its rate."""
WARMING = 2.0
"""Seconds after the beginning in which windows open, and the link carries less than it could."""
STARVED = 0.1
"""Share of the looks at which there was nothing to send from which on it was not the link that limited."""
PACED = 0.9
"""Share of the rate at which we let ourselves send from which on that was the limit."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Since the beginning of the transfer: bytes that arrived, and bytes that were sent again. `allowed`: bits per
    second that pacing lets through, None without pacing. `starved`: streams found no work just now."""

    delivered: int
    resent: int = 0
    round_trip: float | None = None
    starved: bool = False
    allowed: float | None = None


@dataclass(frozen=True, slots=True)
class Stretch:
    """`seconds` of a transfer. `rate` in bits per second; `limited`: the link could have carried more."""

    seconds: float
    rate: float
    limited: bool
    loss: float
    round_trip: float | None


class Sampler:
    """Feed it the counts as often as they are looked at."""

    def __init__(self, now: float) -> None:
        self._began = now
        self._from: tuple[float, Counts] | None = None
        self._looks = self._starved = 0

    def observe(self, now: float, counts: Counts) -> Stretch | None:
        """A measurement, each WIDTH seconds."""
        if self._from is None:
            if now - self._began >= WARMING:
                self._from = now, counts
                self._looks = self._starved = 0
            return None
        self._looks += 1
        self._starved += counts.starved
        if now - self._from[0] < WIDTH:
            return None
        return self._stretch(now, counts)

    def finish(self, now: float, counts: Counts) -> Stretch | None:
        """What was left over, where it says something. A transfer that ends has no more to send: a lower bound."""
        if self._from is None or now - self._from[0] < LEAST:
            return None
        self._starved = self._looks = self._looks + 1
        return self._stretch(now, counts)

    def _stretch(self, now: float, counts: Counts) -> Stretch | None:
        if self._from is None:
            return None
        since, before = self._from
        seconds = now - since
        delivered, resent = counts.delivered - before.delivered, counts.resent - before.resent
        starved = self._starved > STARVED * self._looks
        self._from, self._looks, self._starved = (now, counts), 0, 0
        if seconds <= 0 or delivered < 0:
            return None
        rate = delivered * 8 / seconds
        paced = counts.allowed is not None and rate >= PACED * counts.allowed
        return Stretch(seconds, rate, starved or paced, max(0, resent) / max(1, delivered + resent), counts.round_trip)
