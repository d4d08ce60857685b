"""How many streams a transfer uses.

Hill climbing on what the streams deliver together, in both directions:

    state     after the sample                                         next
    settling  (what a change set going is still on its way)            measuring
    measuring packets are lost and no queue builds: it isn't full      step up
    measuring nothing to compare with, path lossy by our own doing     step down: fewer streams may deliver the same
    measuring nothing to compare with, else                            step up, and after the next hold down, in turn
    rising    the streams added last pay                               step up again, or hold at `maximum`
    rising    they brought as much as those before                     two steps at once: the path is far from full
    rising    they don't pay, no queue builds, it carried more before   step up: those before had not settled
    rising    they don't pay                                           back to the count before, hold
    falling   fewer streams delivered as much                          step down again, or hold at `minimum`
    falling   they didn't                                              back to the count before, hold
    holding   the hold is over, or the path changed                    measuring
    holding   the streams lost what they had won, no queue builds      measuring

A step multiplies or divides by `factor`. Streams pay when goodput / streams**PRICE grew: doubling them has to bring 9%.
(Falcon, Arslan and Kosar, 2021, maximises goodput / 1.02**streams, which asks for 90% more from 32 to 64 streams: no
path that loses packets brings that once it fills, and such paths are what many streams are for.) Where the round trip
shows that no queue builds, while packets are lost, the path is not full and any gain is enough; what it carried once,
while fresh streams opened their windows, tells how many more are wanted.

Streams whose congestion control answers to loss begin with more than they can keep: each has to meet some losses before
it delivers what it will deliver from then on. They count as settled no sooner.

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
LOSSES = 3
"""Segments that each loss-based stream has lost once it is settled, where the path loses any at all."""
MAX_SETTLE = 5.0
"""Seconds that are waited for these losses."""
SEGMENT = 1448
"""Bytes: what TCP sends at once over Ethernet, with timestamps."""
MOST_STEPS = 3
"""Steps at once towards what the path has carried before."""
HOLD = 15.0
"""Seconds before a count that did not pay is tried again; doubles with each refusal up to MAX_HOLD."""
MAX_HOLD = 120.0
OWN_LOSS = 0.05
"""Share of bytes sent again above which we suspect that our streams overrun the path: paths lose less by themselves."""
AS_MUCH = 0.97
"""Fewer streams deliver as much as more did, within the noise of a sample."""
EMPTY_QUEUE = 1.15
"""Round trip, relative to the least that was seen, up to which no queue stands on the path."""
FALLEN = 0.1
"""Loss of goodput in a hold, with no queue on the path, that more streams could make good."""
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


@dataclass(frozen=True, slots=True)
class _Rates:
    """Of the time between two samples: bits per second delivered, and the share of bytes that was sent again."""

    goodput: float
    loss: float


class _Window:
    """Takes the rates of one stretch of time after the other."""

    def __init__(self) -> None:
        self._from: tuple[float, Sample] | None = None
        self._starved = False

    def clear(self) -> None:
        self._from = None

    def add(self, now: float, sample: Sample) -> _Rates | None:
        """The rates when the stretch is long enough, and no stream ran out of work in it."""
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
        return _Rates(delivered * 8 / (now - began), resent / max(1, delivered + resent))


class StreamTuner:
    """Feed `observe` as often as you like. Invariant: minimum <= streams <= maximum."""

    def __init__(
        self, minimum: int, maximum: int, initial: int, factor: float, now: float, *, loss_based: bool = False
    ) -> None:
        """`factor` > 1; `now`: monotonic seconds; `loss_based`: what the streams' congestion control goes by."""
        self.minimum = minimum
        self.maximum = maximum
        self.factor = factor
        self.streams = max(minimum, min(maximum, initial))
        self.goodput = 0.0
        """Bits per second of the newest sample that counts."""
        self._loss_based = loss_based
        self._changed: tuple[float, Sample] = (now, Sample(0))
        """When the count was changed last."""
        self._settled = False
        self._window, self._any = _Window(), _Window()
        self._carried = 0.0
        """The most that the path was seen to carry, settled or not, since more streams last brought nothing."""
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
        rates = self._any.add(now, sample)
        if rates is not None:
            self._carried = max(self._carried, rates.goodput)
        if not self._settled and not self._settles(now, sample):
            return None
        rates = self._window.add(now, sample)
        if rates is None:
            return None
        self.goodput = rates.goodput
        empty = 0 < rates.loss < OWN_LOSS and sample.round_trip < self._least_round_trip * EMPTY_QUEUE
        if self._before is not None:
            return self._judge(now, sample, empty, *self._before)
        not_full = empty and self._loss_based
        if self._held is not None and now < self._hold_until:
            change = self.goodput / self._held - 1
            if abs(change) < CHANGED and not (not_full and change < -FALLEN):
                return None
        self._held = None
        if not_full:
            return self._fill(now, sample)
        if rates.loss > OWN_LOSS and self.streams > self.minimum:
            return self._step_down(now, sample, f"{rates.loss:.0%} is sent again")
        self._down_next = not self._down_next
        if not self._down_next and self.streams > self.minimum:
            return self._step_down(now, sample, "trying whether fewer do as well")
        return self._step_up(now, sample, "probing for more")

    def _settles(self, now: float, sample: Sample) -> bool:
        since, before = self._changed
        if now - since < max(SETTLE, SETTLE_TRIPS * sample.round_trip):
            return False
        lost = sample.resent - before.resent
        added = self._before is None or self._before[0] < self.streams
        opening = self._loss_based and added and 0 < lost < LOSSES * self.streams * SEGMENT
        if opening and now - since < MAX_SETTLE:
            return False
        self._settled = True
        self._window.clear()
        return True

    def _judge(self, now: float, sample: Sample, empty: bool, count: int, earlier: float) -> Decision | None:
        self._before = None
        gain = self.goodput / earlier - 1 if earlier else 1.0
        if self.streams < count:
            if gain >= AS_MUCH - 1:
                self._hold = HOLD
                return self._step_down(now, sample, f"{self.streams} streams deliver as much as {count}")
            return self._back(now, sample, count, f"{self.streams} streams delivered {gain:+.0%}")
        if 1 + gain > (1.0 if empty else (self.streams / count) ** PRICE):
            self._hold = HOLD
            far = gain > IN_PROPORTION * (self.streams / count - 1)
            return self._step_up(now, sample, f"{self.streams} streams brought {gain:+.0%}", steps=2 if far else 1)
        if empty and self._loss_based and self.goodput < self._carried * (1 - FALLEN):
            return self._fill(now, sample)
        self._carried = self.goodput
        return self._back(now, sample, count, f"{self.streams} streams brought {gain:+.0%}, not worth it")

    def _fill(self, now: float, sample: Sample) -> Decision | None:
        """A path that loses packets while no queue builds: as many streams as it takes to what it carried before."""
        steps = 1
        while steps < MOST_STEPS and self.goodput * self.factor**steps < self._carried:
            steps += 1
        return self._step_up(now, sample, "packets are lost and no queue builds", steps)

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
        self._changed, self._settled = (now, sample), False
        return Decision(streams, reason)
