"""How large a probe of an idle link may be, and when the next one is due, under a budget of bytes."""

from __future__ import annotations

from collections import deque

EVERY = 300.0
"""Seconds between probes of an idle link; each may take its share of an hour's budget."""
LEAST = 64 * 1024
"""Bytes: a burst of less says nothing of any link."""
ENOUGH = 0.5
"""Seconds that a burst takes at the rate that is known: dozens of round trips, and windows are open."""
UNKNOWN = 1024 * 1024
"""Bytes of the first burst to a peer of which nothing is known: half a second at 16 Mbit/s."""
GROWTH = 4
"""Times as large as the rate asks for, so that a link which got faster shows it."""
RETRY = 30.0
"""Seconds after a probe that failed."""
HOUR = 3600.0


class ProbeBudget:
    """By peer. Invariant: no more than the budget is begun within any hour, whether it arrives or not."""

    def __init__(self) -> None:
        self._begun: dict[str, deque[tuple[float, int]]] = {}
        self._next: dict[str, float] = {}

    def size(self, peer: str, now: float, budget: int, rate: float | None, age: float | None) -> int:
        """Bytes of a probe that is due now, 0 where none is. `now` of a monotonic clock, in seconds.

        `budget`: bytes an hour; `rate`: bits per second as measured last, `age` seconds ago, whoever measured it.
        """
        if (age is not None and 0 <= age < EVERY) or now < self._next.get(peer, now):
            return 0
        begun = self._begun.get(peer, deque())
        while begun and begun[0][0] <= now - HOUR:
            begun.popleft()
        allowed = min(int(budget * EVERY / HOUR), budget - sum(size for _, size in begun))
        wanted = UNKNOWN if rate is None else int(rate / 8 * ENOUGH * GROWTH)
        size = min(allowed, max(LEAST, wanted))
        return size if size >= LEAST else 0

    def begun(self, peer: str, now: float, size: int) -> None:
        """A probe of `size` bytes begins."""
        self._begun.setdefault(peer, deque()).append((now, size))
        self._next[peer] = now + RETRY

    def succeeded(self, peer: str, now: float) -> None:
        """It has told what it should."""
        self._next[peer] = now + EVERY
