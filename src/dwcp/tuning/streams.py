"""How many streams a transfer uses.

Hill climbing on what the streams deliver together, in both directions:

    state     after the sample                                         next
    settling  (what a change set going is still on its way)            measuring
    measuring nothing to compare with, path lossy by our own doing     step down: fewer streams may deliver the same
    measuring nothing to compare with, else                            step up, and after the next hold down, in turn
    rising    the streams added last pay                               step up again, or hold at `maximum`
    rising    they brought as much as those before                     two steps at once: the path is far from full
    rising    they don't                                               back to the count before, hold
    falling   fewer streams delivered as much                          step down again, or hold at `minimum`
    falling   they didn't                                              back to the count before, hold
    holding   the hold is over, or the path changed                    measuring

A step multiplies or divides by `factor`. Streams pay when goodput / streams**PRICE grew: doubling them has to bring 9%.
(Falcon, Arslan and Kosar, 2021, maximises goodput / 1.02**streams, which asks for 90% more from 32 to 64 streams: no
path that loses packets brings that once it fills, and such paths are what many streams are for.) Where the round trip
shows that no queue builds, while packets are lost, the path is not full and any gain is enough.

A sample in which the streams ran out of work says nothing about the path, and is not used.
"""

from __future__ import annotations

from dataclasses import dataclass

PRICE = 0.12
IN_PROPORTION = 0.8
"""Of the gain that as many more streams would bring if each of them delivered what those before do."""
MEASURE = 1.0
"""Seconds of a sample at least, and MEASURE_TRIPS round trips: several periods of a loss-based congestion control are
not to be had, so that no single sample is believed for longer than a hold."""
MEASURE_TRIPS = 5
SETTLE = 0.5
"""Seconds for new streams to find their rate, and SETTLE_TRIPS round trips: three to connect, the others to start."""
SETTLE_TRIPS = 8
HOLD = 15.0
"""Seconds before a count that did not pay is tried again; doubles with each refusal up to MAX_HOLD."""
MAX_HOLD = 120.0
OWN_LOSS = 0.05
"""Share of bytes sent again above which we suspect that our streams overrun the path: paths lose less by themselves."""
AS_MUCH = 0.97
"""Fewer streams deliver as much as more did, within the noise of a sample."""
EMPTY_QUEUE = 1.15
"""Round trip, relative to the least that was seen, up to which no queue stands on the path."""
CHANGED = 0.4
"""Change of goodput, relative to the sample before the hold, from which on the path counts as another one."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Counts since the beginning of the transfer, in bytes; the round trip in seconds."""

    delivered: int
    resent: int = 0
    round_trip: float = 0.0
    starved: bool = False
    """Some stream had nothing to send."""


@dataclass(frozen=True, slots=True)
class Decision:
    """`streams` from now on, and why, for the log."""

    streams: int
    reason: str


class StreamTuner:
    """Feed `observe` as often as you like. Invariant: minimum <= streams <= maximum."""

    def __init__(self, minimum: int, maximum: int, initial: int, factor: float, now: float) -> None:
        """`factor` > 1; `now`: monotonic seconds."""
        self.minimum = minimum
        self.maximum = maximum
        self.factor = factor
        self.streams = max(minimum, min(maximum, initial))
        self.goodput = 0.0
        """Bits per second of the newest sample that counts."""
        self._from: tuple[float, Sample] | None = None
        self._settled_at: float | None = None
        self._start = now
        self._starved = False
        self._least_round_trip = float("inf")
        self._before: tuple[int, float] | None = None
        self._down_next = False
        self._held: float | None = None
        self._hold = HOLD
        self._hold_until = 0.0

    def observe(self, now: float, sample: Sample) -> Decision | None:
        """A decision when the count should change."""
        if sample.round_trip > 0:
            self._least_round_trip = min(self._least_round_trip, sample.round_trip)
        if self._settled_at is None:
            self._settled_at = self._start + _settling(sample)
        if now < self._settled_at:
            return None
        if self._from is None:
            self._from, self._starved = (now, sample), False
            return None
        self._starved |= sample.starved
        began, first = self._from
        if now - began < max(MEASURE, MEASURE_TRIPS * sample.round_trip):
            return None
        self._from = None
        if self._starved:
            return None
        delivered, resent = sample.delivered - first.delivered, sample.resent - first.resent
        self.goodput = delivered * 8 / (now - began)
        loss = resent / max(1, delivered + resent)
        if self._before is not None:
            return self._judge(now, sample, loss, *self._before)
        if self._held is not None and now < self._hold_until and abs(self.goodput / self._held - 1) < CHANGED:
            return None
        self._held = None
        if loss > OWN_LOSS and self.streams > self.minimum:
            return self._step_down(now, sample, f"{loss:.0%} is sent again")
        self._down_next = not self._down_next
        if not self._down_next and self.streams > self.minimum:
            return self._step_down(now, sample, "trying whether fewer do as well")
        return self._step_up(now, sample, "probing for more")

    def _judge(self, now: float, sample: Sample, loss: float, count: int, earlier: float) -> Decision | None:
        self._before = None
        gain = self.goodput / earlier - 1 if earlier else 1.0
        if self.streams < count:
            if gain >= AS_MUCH - 1:
                self._hold = HOLD
                return self._step_down(now, sample, f"{self.streams} streams deliver as much as {count}")
            return self._back(now, sample, count, f"{self.streams} streams delivered {gain:+.0%}")
        empty = 0 < loss < OWN_LOSS and sample.round_trip < self._least_round_trip * EMPTY_QUEUE
        if 1 + gain > (1.0 if empty else (self.streams / count) ** PRICE):
            self._hold = HOLD
            far = gain > IN_PROPORTION * (self.streams / count - 1)
            return self._step_up(now, sample, f"{self.streams} streams brought {gain:+.0%}", steps=2 if far else 1)
        return self._back(now, sample, count, f"{self.streams} streams brought {gain:+.0%}, not worth it")

    def _step_up(self, now: float, sample: Sample, reason: str, steps: int = 1) -> Decision | None:
        self._before = (self.streams, self.goodput)
        wanted = max(self.streams + 1, int(self.streams * self.factor**steps))
        return self._set(now, sample, min(self.maximum, wanted), reason)

    def _step_down(self, now: float, sample: Sample, reason: str) -> Decision | None:
        self._before = (self.streams, self.goodput)
        return self._set(now, sample, max(self.minimum, int(self.streams / self.factor)), reason)

    def _back(self, now: float, sample: Sample, count: int, reason: str) -> Decision | None:
        self._rest(now)
        self._hold = min(MAX_HOLD, self._hold * 2)
        return self._set(now, sample, count, reason)

    def _rest(self, now: float) -> None:
        self._held = self.goodput or 1.0
        self._hold_until = now + self._hold

    def _set(self, now: float, sample: Sample, streams: int, reason: str) -> Decision | None:
        if streams == self.streams:
            # at a bound
            self._before = None
            self._rest(now)
            return None
        self.streams = streams
        self._settled_at = now + _settling(sample)
        return Decision(streams, reason)


def _settling(sample: Sample) -> float:
    return max(SETTLE, SETTLE_TRIPS * sample.round_trip)
