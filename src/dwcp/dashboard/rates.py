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
    """Bits per second that running transfers have on the wire, smoothed. Content is settled in pieces of many seconds
    on a slow link, so its rate at one moment says nothing."""

    def __init__(self) -> None:
        self._known: dict[str, _Smoothed] = {}

    def update(self, live: Iterable[TransferStatus], now: float) -> dict[str, float]:
        """By id; `now` is monotonic. A transfer that is seen for the first time has its average."""
        known: dict[str, _Smoothed] = {}
        for status in live:
            last = self._known.get(status.id)
            if last is None or status.wire_bytes < last.bytes:
                rate = status.wire_bytes * 8 / status.seconds if status.seconds > 0 else 0.0
            elif now <= last.at:
                known[status.id] = last
                continue
            else:
                seconds = now - last.at
                weight = 1 - math.exp(-seconds / SMOOTHING)
                rate = last.rate + weight * ((status.wire_bytes - last.bytes) * 8 / seconds - last.rate)
            known[status.id] = _Smoothed(now, status.wire_bytes, rate)
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
