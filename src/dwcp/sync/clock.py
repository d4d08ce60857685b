"""Hybrid logical clock (Kulkarni, Demirbas et al., 2014): stamps that grow along every chain of messages, and differ
from the wall clock by no more than the wall clocks of the nodes do from each other.

A stamp is one integer: milliseconds since the epoch in the high bits, a counter in the low COUNTER_BITS. Adding one to
a stamp carries from the counter into the milliseconds, which is all that an overflow needs.
"""

from __future__ import annotations

COUNTER_BITS = 16
"""65536 stamps in a millisecond before they run ahead of it."""


class HybridClock:
    """Invariant: `last` is at least every stamp that was given out or observed, in earlier runs too: it is kept."""

    def __init__(self, max_skew: float) -> None:
        """`max_skew`: seconds that a stamp of somebody else may be ahead of our wall clock."""
        self.max_skew = max_skew
        self.last = 0

    def stamp(self, wall: float) -> int:
        """A new one, greater than all before. `wall` in seconds since the epoch."""
        self.last = max(self.last + 1, to_stamp(wall))
        return self.last

    def accepts(self, stamp: int, wall: float) -> bool:
        """Whether it is not too far in our future: what a wrong clock has dated would win over all until then."""
        return stamp < to_stamp(wall + self.max_skew)

    def observe(self, stamp: int) -> None:
        """The next stamp that we give out is greater."""
        self.last = max(self.last, stamp)

    def ahead(self, wall: float) -> float:
        """Seconds by which our stamps are ahead of our wall clock: those of others, or it was set back."""
        return max(0.0, seconds_of(self.last) - wall)


def to_stamp(wall: float) -> int:
    """The first stamp of that moment."""
    return int(wall * 1000) << COUNTER_BITS


def seconds_of(stamp: int) -> float:
    """Since the epoch."""
    return (stamp >> COUNTER_BITS) / 1000
