"""How fast things go now, from counters that only grow: of one transfer, of the node, of each peer."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from dwcp.transfer.board import TransferStatus

SMOOTHING = 3.0
"""Seconds in which an exponential average takes over two thirds of a change: steady enough to read, and still live."""
INTERVAL = 5.0
"""Seconds between two samples: the runbook's interval of metrics."""
SAMPLES = 120
"""Ten minutes: as far back as a glance goes; Prometheus has the rest."""


@dataclass(slots=True)
class _Smoothed:
    at: float
    bytes: int
    rate: float


class TransferRates:
    """Bits of content per second of running transfers, smoothed."""

    def __init__(self) -> None:
        self._known: dict[str, _Smoothed] = {}

    def update(self, live: Iterable[TransferStatus], now: float) -> dict[str, float]:
        """By id. A transfer that is seen for the first time has its average."""
        known: dict[str, _Smoothed] = {}
        for status in live:
            last = self._known.get(status.id)
            if last is None or status.bytes_done < last.bytes:
                rate = status.rate
            elif now <= last.at:
                known[status.id] = last
                continue
            else:
                seconds = now - last.at
                weight = 1 - math.exp(-seconds / SMOOTHING)
                rate = last.rate + weight * ((status.bytes_done - last.bytes) * 8 / seconds - last.rate)
            known[status.id] = _Smoothed(now, status.bytes_done, rate)
        self._known = known
        return {name: entry.rate for name, entry in known.items()}


@dataclass(frozen=True, slots=True)
class Sample:
    """One interval; bits per second."""

    time: float
    """Its end, wall-clock seconds since the epoch."""
    sent: int
    received: int
    peers: dict[str, int] = field(default_factory=dict)
    """Content settled with each peer, both ways; peers with none are left out."""


class History:
    """The newest SAMPLES samples."""

    def __init__(self) -> None:
        self.samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._counted: tuple[float, int, int] | None = None
        self._settled: dict[tuple[str, float], int] = {}

    def sample(
        self, now: float, wall: float, sent: int, received: int, transfers: Iterable[TransferStatus]
    ) -> Sample | None:
        """`sent`, `received`: bytes since the start; `transfers`: running and ended ones. None the first time."""
        # the id alone is a peer's choice, and the same for a transfer that is taken up again
        settled = {(status.id, status.started_at): (status.peer, status.bytes_done) for status in transfers}
        before, self._counted = self._counted, (now, sent, received)
        known, self._settled = self._settled, {key: done for key, (_, done) in settled.items()}
        if before is None or now <= before[0]:
            return None
        seconds = now - before[0]
        peers: dict[str, int] = {}
        for key, (peer, done) in settled.items():
            rate = max(0, round((done - known.get(key, 0)) * 8 / seconds))
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
