"""Whom a node talks to next: a few peers at a time, the same for a while, so that sessions can be kept open, and each
of them replaced by chance now and then, so that everybody hears of everything.

News reaches all of n nodes in a number of intervals that grows with log n (Demers et al., 1987), and a node's own cost
does not grow with n.
"""

from __future__ import annotations

import random
from collections.abc import Collection

FAN_OUT = 3
"""Peers a round: with three edges by chance for each node a graph of hundreds is in one piece, and some four wide."""
CHANGE = 1 / 16
"""Of the rounds in which a partner is exchanged for another."""


class Partners:
    """Invariant: at most FAN_OUT, all of whom were known at the newest `choose`."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._chosen: list[str] = []

    def choose(self, known: Collection[str]) -> list[str]:
        """Of the peers that can be talked to now."""
        chosen = [peer for peer in self._chosen if peer in known]
        others = [peer for peer in known if peer not in chosen]
        self._rng.shuffle(others)
        if others and len(chosen) == FAN_OUT and self._rng.random() < CHANGE:
            chosen.pop(self._rng.randrange(FAN_OUT))
        self._chosen = [*chosen, *others[: FAN_OUT - len(chosen)]]
        return list(self._chosen)
