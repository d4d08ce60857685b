"""How fast all streams of a transfer together may send, so that they don't fight each other.

A stream with a model of its path (BBR) sends what it believes the path carries and, to see whether there is more, now
and then a quarter above that. A few dozen of them believe and probe each for itself: together they overfill the queue
of the path, and what is dropped has to be sent again. The transfer knows better: what all of them delivered together
is what the path gives us. So it gives each an equal share of that, and a little more.

    state    while                                             limit
    start    each sample delivers GROWTH more than the best    none: the streams find the path by themselves
    cruise   afterwards                                        HEADROOM times the best sample of the last WINDOW
             a sample loses more than TOO_LOSSY                that sample's own rate: the queue drains
    probe    for one sample every PROBE_EVERY seconds          PROBE times the best, because links get better too
    rest     nothing may be sent                               none; then as at the start

The windowed maximum and the gains are those of BBR (Cardwell et al., 2016), one level up.
"""

from __future__ import annotations

from collections import deque

GROWTH = 1.10
HEADROOM = 1.05
PROBE = 1.25
PROBE_EVERY = 8.0
WINDOW = 10.0
TOO_LOSSY = 0.05
"""Share of bytes sent again. A path that loses 1% by itself must not count as full."""
INTERVAL = 0.4
"""Seconds of a sample at least, so that a burst of acknowledgements does not count as a rate."""
ROUND_TRIPS = 3
"""Round trips of a sample at least."""


class RateLimit:
    """Feed `observe` with counts that only grow; it answers with bits per second, None for no limit."""

    def __init__(self, now: float) -> None:
        self._at = now
        self._delivered = self._resent = 0
        self._samples: deque[tuple[float, float]] = deque()
        self._starting = True
        self._probe_at = 0.0
        self.limit: float | None = None

    def observe(self, now: float, delivered: int, resent: int, round_trip: float) -> bool:
        """`delivered` and `resent`: bytes acknowledged and bytes sent again, since the beginning; `round_trip` in
        seconds. True when `limit` has changed."""
        seconds = now - self._at
        if seconds < max(INTERVAL, ROUND_TRIPS * round_trip):
            return False
        rate = (delivered - self._delivered) * 8 / seconds
        lost = (resent - self._resent) / max(1, delivered - self._delivered + resent - self._resent)
        self._at, self._delivered, self._resent = now, delivered, resent
        best = self._best(now)
        if lost > TOO_LOSSY:
            # what was delivered while the queue overflowed is what there is; earlier samples were the queue filling
            self._samples.clear()
        self._samples.append((now, rate))
        if self._starting:
            if not best or (rate > best * GROWTH and lost < TOO_LOSSY):
                return False
            self._starting = False
            self._probe_at = now + PROBE_EVERY
        before = self.limit
        if lost > TOO_LOSSY:
            self.limit = rate
        elif now >= self._probe_at:
            self._probe_at = now + PROBE_EVERY
            self.limit = max(best, rate) * PROBE
        else:
            self.limit = max(best, rate) * HEADROOM
        return self.limit != before

    def rest(self, now: float, delivered: int, resent: int) -> bool:
        """Instead of `observe`, while nothing may be sent: that nothing is delivered says nothing of the path, which is
        found anew afterwards."""
        self._at, self._delivered, self._resent = now, delivered, resent
        self._samples.clear()
        self._starting = True
        before, self.limit = self.limit, None
        return before is not None

    def _best(self, now: float) -> float:
        while self._samples and self._samples[0][0] < now - WINDOW:
            self._samples.popleft()
        return max((rate for _, rate in self._samples), default=0.0)
