"""A path as a tuner sees it, computed instead of sent over: for tests of whoever decides how much of it to use.

Each stream carries what its congestion control makes of loss and round trip (Mathis et al., 1997: 1.22 segments a round
trip over the square root of the loss), at most a fair share of the bottleneck. What the streams offer beyond the rate
is dropped and sent again, and a queue of one bandwidth-delay product stands while they do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dwcp.tuning.streams import Sample

SEGMENT_BITS = 1448 * 8


@dataclass(slots=True)
class SimulatedPath:
    """`rate` and `cross_traffic` in bits per second, `round_trip` in seconds, `loss` as a share of segments. Fields may
    be changed while it runs. `window_bits`: most that one stream has under way."""

    rate: float
    round_trip: float
    loss: float = 0.0
    cross_traffic: float = 0.0
    window_bits: float = 16 * 2**20 * 8
    overshoot: float = 0.0
    """Share of its rate that each stream offers above what fits, to probe: 0.25 for a BBR that nobody restrains."""
    opening: float = 0.0
    """Seconds for which streams that were added fill the path, before they meet losses and fall to `stream_rate`."""
    delivered: float = 0.0
    resent: float = 0.0
    queueing: bool = False
    _streams: int = 0
    _opening_left: float = 0.0

    def stream_rate(self) -> float:
        """What one stream alone would carry, in bits per second."""
        by_loss = math.inf if not self.loss else 1.22 * SEGMENT_BITS / self.round_trip / math.sqrt(self.loss)
        return min(by_loss, self.window_bits / self.round_trip)

    def run(self, seconds: float, streams: int) -> None:
        """Lets `streams` streams send for some time."""
        free = max(0.0, self.rate - self.cross_traffic)
        self._opening_left -= seconds
        if streams > self._streams:
            self._opening_left = self.opening
        self._streams = streams
        offered = streams * self.stream_rate()
        if self._opening_left > 0:
            offered = max(offered, free)
        carried = min(offered, free)
        self.queueing = offered > free
        self.delivered += carried * seconds / 8
        self.resent += carried * seconds / 8 * self.loss
        if self.queueing:
            self.resent += carried * seconds / 8 * self.overshoot * math.log2(1 + streams) / 5

    def sample(self, *, starved: bool = False) -> Sample:
        """What the sockets would tell."""
        trip = self.round_trip * (2 if self.queueing else 1)
        return Sample(int(self.delivered), int(self.resent), trip, starved)
