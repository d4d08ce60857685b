"""One rate for all streams of one transfer, whatever the node may send besides."""

from __future__ import annotations

import threading


class Throttle:
    """Hands out moments to begin at, so that what is sent keeps below a rate. Any thread may ask."""

    def __init__(self, rate: int) -> None:
        """`rate`: bits per second, more than 0."""
        self._rate = rate
        self._lock = threading.Lock()
        self._free_at = 0.0

    def begin_at(self, size: int, now: float) -> float:
        """When `size` bytes may begin, in seconds of the clock of `now`."""
        with self._lock:
            begin = max(now, self._free_at)
            self._free_at = begin + size * 8 / self._rate
            return begin

    def correct(self, size: int) -> None:
        """So many bytes more (or, negative, less) than was asked for were sent."""
        with self._lock:
            self._free_at += size * 8 / self._rate
