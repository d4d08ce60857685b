"""How fast things go now, from counters that only grow: of one transfer, of the node, of each peer."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from dwcp.forecast.eta import Rates
from dwcp.forecast.spread import around_zero
from dwcp.transfer.board import TransferStatus

SMOOTHING = 3.0
"""Seconds in which an exponential average takes over two thirds of a change: steady enough to read, and still live."""
TWO_SIDED = 1.96
"""Standard deviations to each side that hold 95% of a normal distribution: what forecasts are held to by default."""
INTERVAL = 5.0
"""Seconds between two samples: the runbook's interval of metrics."""
SAMPLES = 120
"""Ten minutes: as far back as a glance goes; Prometheus has the rest."""


@dataclass(slots=True)
class _Smoothed:
    at: float
    bytes: int
    rate: float
    variance: float

    @property
    def rates(self) -> Rates:
        spread = TWO_SIDED * math.sqrt(self.variance)
        return Rates(around_zero(self.rate, -spread), self.rate, self.rate + spread)

    def after(self, count: int, now: float) -> _Smoothed:
        """With `count` bytes now."""
        seconds = now - self.at
        weight = 1 - math.exp(-seconds / SMOOTHING)
        off = (count - self.bytes) * 8 / seconds - self.rate
        return _Smoothed(now, count, self.rate + weight * off, (1 - weight) * (self.variance + weight * off * off))


def _first(status: TransferStatus, now: float) -> _Smoothed:
    """Of a transfer that was not seen before: nothing is known of its spread, so that is as large as its rate."""
    if status.seconds <= 0:
        return _Smoothed(now, status.wire_bytes, 0.0, 0.0)
    rate = _Smoothed(now - status.seconds, 0, 0.0, 0.0).after(status.wire_bytes, now).rate
    return _Smoothed(now, status.wire_bytes, rate, rate * rate)


class TransferRates:
    """Bits per second that running transfers have on the wire: an exponential average, and between what they were
    lately, from the average of the squared deviations (West, 1979). Content is settled in pieces of many seconds on a
    slow link, so its rate at one moment says nothing.

    Before a transfer began it carried nothing, and that counts: what its connections may put on the wire at once,
    before anything paces them, is many times what the link carries, and would be taken for the link's rate.
    """

    def __init__(self) -> None:
        self._known: dict[str, _Smoothed] = {}

    def update(self, live: Iterable[TransferStatus], now: float) -> dict[str, Rates]:
        """By id; `now` is monotonic."""
        known: dict[str, _Smoothed] = {}
        for status in live:
            last = self._known.get(status.id)
            if last is None or status.wire_bytes < last.bytes:
                known[status.id] = _first(status, now)
            elif now > last.at:
                known[status.id] = last.after(status.wire_bytes, now)
            else:
                known[status.id] = last
        self._known = known
        return {name: entry.rates for name, entry in known.items()}


@dataclass(frozen=True, slots=True)
class Sample:
    """One interval; bits per second."""

    time: float
    """Its end, wall-clock seconds since the epoch."""
    sent: int
    received: int
    peers: dict[str, int] = field(default_factory=dict)
    """What transfers had on the wire with each peer, both ways; peers with none are left out."""


class History:
    """The newest SAMPLES samples."""

    def __init__(self) -> None:
        self.samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._counted: tuple[float, int, int] | None = None
        self._carried: dict[tuple[str, float], int] = {}

    def sample(
        self, now: float, wall: float, sent: int, received: int, transfers: Iterable[TransferStatus]
    ) -> Sample | None:
        """`sent`, `received`: bytes since the start; `transfers`: running and ended ones. None the first time."""
        # the id alone is a peer's choice, and the same for a transfer that is taken up again
        carried = {(status.id, status.started_at): (status.peer, status.wire_bytes) for status in transfers}
        before, self._counted = self._counted, (now, sent, received)
        known, self._carried = self._carried, {key: count for key, (_, count) in carried.items()}
        if before is None or now <= before[0]:
            return None
        seconds = now - before[0]
        peers: dict[str, int] = {}
        for key, (peer, count) in carried.items():
            rate = max(0, round((count - known.get(key, 0)) * 8 / seconds))
            if rate:
                peers[peer] = peers.get(peer, 0) + rate
        sample = Sample(
            round(wall, 1),
            max(0, round((sent - before[1]) * 8 / seconds)),
            max(0, round((received - before[2]) * 8 / seconds)),
            peers,
        )
        self.samples.append(sample)
        return sample
