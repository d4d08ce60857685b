"""Whether compressing pays on this link, now.

Each block costs its thread some seconds: to encode, and to hand to a socket that takes no more than the link carries.
Both ways of sending are timed as they are used, per byte of content; the cheaper one is used, and the other one is
tried again every EXPLORE_EVERY blocks, because links and content change. On a link faster than the encoder plain wins
by itself, on a slow one the codec does, and nobody has to know either rate.

A change of mind needs an advantage of `threshold` percent, so that noise does not flip it. Only blocks that did shrink
count as compressed: those that the codec refused say nothing about its use.
"""

from __future__ import annotations

from dataclasses import dataclass, field

EXPLORE_EVERY = 32
"""3% of blocks go the other way: the most that a wrong mind costs."""
WARM_UP = 4
"""Blocks each way before the first comparison."""
SMOOTHING = 0.2
"""Weight of the newest block: some ten blocks decide."""


@dataclass
class _Cost:
    """Seconds per byte of content, smoothed."""

    value: float = 0.0
    samples: int = 0

    def add(self, seconds: float, size: int) -> None:
        cost = seconds / size
        self.value = cost if not self.samples else self.value + SMOOTHING * (cost - self.value)
        self.samples += 1


@dataclass
class Adaptive:
    """Decides for one transfer. Not for several threads at once: whoever shares one locks."""

    threshold: float
    """Percent by which the other way must be cheaper."""
    enabled: bool = True
    """False: always compress."""
    compressing: bool = True
    _plain: _Cost = field(default_factory=_Cost)
    _packed: _Cost = field(default_factory=_Cost)
    _blocks: int = 0

    def choose(self) -> bool:
        """True to try the codec on the next block."""
        if not self.enabled:
            return True
        self._blocks += 1
        if min(self._plain.samples, self._packed.samples) < WARM_UP:
            # both ways in turn until both are known, the codec first, for many a transfer has one block or two; where
            # nothing shrinks, explore only
            if self._packed.samples < WARM_UP and self._blocks > 8 * WARM_UP:
                return self._blocks % EXPLORE_EVERY == 0
            return self._blocks == 1 or self._blocks % 2 == 0
        if self._blocks % EXPLORE_EVERY == 0:
            return not self.compressing
        return self.compressing

    def observe(self, shrunk: bool, tried: bool, size: int, seconds: float) -> None:
        """One block of `size` bytes took `seconds` to encode and hand over. `tried`: the codec was asked."""
        if tried and not shrunk:
            return
        (self._packed if shrunk else self._plain).add(seconds, size)
        if min(self._plain.samples, self._packed.samples) < WARM_UP:
            return
        now, other = (self._packed, self._plain) if self.compressing else (self._plain, self._packed)
        if other.value < now.value * (1 - self.threshold / 100):
            self.compressing = not self.compressing
