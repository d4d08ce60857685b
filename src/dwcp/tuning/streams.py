"""How many streams a transfer uses.

Starts at `initial`, and while a sample shows that the streams added last raised goodput by enough to pay for
themselves, multiplies by `factor`; when they did not, it goes back to the count before and stays for a while, longer
each time. What a stream has to bring is taken from Falcon (Arslan and Kosar, 2021), which maximises goodput / COST**n,
so that a tuner that gains nothing from many streams does not hold them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

COST = 1.02
"""Falcon's utility: each stream has to bring 2%; beyond 32 streams the exponent is damped, see `_utility`."""
INTERVAL = 1.0
"""Seconds between decisions: several round trips of an intercontinental path."""
HOLD = 8.0
"""Seconds before a count that did not pay is tried again; doubles with each refusal up to MAX_HOLD."""
MAX_HOLD = 120.0


@dataclass(frozen=True, slots=True)
class Decision:
    """`streams` from now on, and why, for the log."""

    streams: int
    reason: str


class StreamTuner:
    """Feed `observe` with the bytes settled so far. Invariant: minimum <= streams <= maximum."""

    def __init__(self, minimum: int, maximum: int, initial: int, factor: float, now: float) -> None:
        """`factor` > 1; `now`: monotonic seconds."""
        self.minimum = minimum
        self.maximum = maximum
        self.factor = factor
        self.streams = max(minimum, min(maximum, initial))
        self._bytes = 0
        self._at = now
        self._before: tuple[int, float] | None = None
        self._settling = True
        self._hold = HOLD
        self._hold_until = -math.inf

    def observe(self, now: float, settled: int) -> Decision | None:
        """`settled`: bytes acknowledged since the beginning. A decision when the count should change."""
        if now - self._at < INTERVAL:
            return None
        goodput = (settled - self._bytes) / (now - self._at)
        self._bytes, self._at = settled, now
        if self._settling:
            # the first sample after a change still holds what was under way before
            self._settling = False
            return None
        if self._before is not None:
            return self._judge(now, goodput)
        if now < self._hold_until or self.streams >= self.maximum:
            return None
        return self._grow(goodput)

    def _grow(self, goodput: float) -> Decision | None:
        self._before = (self.streams, goodput)
        return self._set(min(self.maximum, max(self.streams + 1, int(self.streams * self.factor))), "probing for more")

    def _judge(self, now: float, goodput: float) -> Decision | None:
        before, earlier = self._before or (self.streams, goodput)
        self._before = None
        if _utility(goodput, self.streams) > _utility(earlier, before):
            self._hold = HOLD
            if self.streams < self.maximum:
                return self._grow(goodput)
            return None
        self._hold_until = now + self._hold
        self._hold = min(MAX_HOLD, self._hold * 2)
        gain = goodput / earlier - 1 if earlier else 0.0
        return self._set(max(self.minimum, before), f"{self.streams} streams brought {gain:+.0%}, not worth it")

    def _set(self, streams: int, reason: str) -> Decision | None:
        if streams == self.streams:
            return None
        self.streams = streams
        self._settling = True
        return Decision(streams, reason)


def _utility(goodput: float, streams: int) -> float:
    """Falcon's goodput / COST**n asks for 90% more goodput to go from 32 to 64 streams, which no loss-limited path
    gives once it fills; the logarithm asks for the same 2% a step of stream count below 8 and ever less above."""
    price: float = COST ** (8 * math.log2(1 + streams / 8))
    return goodput / price
