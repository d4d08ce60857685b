"""How long coding may take so that coder and link finish together.

The link takes some seconds for each byte of literals; while it does, the cores code for the other streams. So a segment
may cost a core what the link takes for it, divided among the streams that want a core. A slow link gets a high level, a
fast one a low level, and nobody has to know its rate: it shows in how long sending takes.
"""

from __future__ import annotations

SMOOTHING = 0.3
"""Weight of the newest segment."""
FIRST = 1 / 110e6
"""Seconds per byte before anything was sent: zstd's level 5 (`residue.LEVELS`)."""
MAX_SECONDS = 4.0
"""For one segment: a transfer's end waits for the slowest."""


class Effort:
    """Of one transfer. Whoever shares it among threads locks."""

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._seconds_per_byte: float | None = None

    def budget(self, size: int, streams: int) -> float:
        """Seconds of one core for `size` bytes of literals, while `streams` of them share the link."""
        if self._seconds_per_byte is None:
            return size * FIRST
        return min(MAX_SECONDS, size * self._seconds_per_byte * self._cores / max(self._cores, streams))

    def sent(self, size: int, seconds: float) -> None:
        """`size` bytes of literals, coded, took a stream `seconds` to hand to the link."""
        if size:
            new, known = seconds / size, self._seconds_per_byte
            self._seconds_per_byte = new if known is None else known + SMOOTHING * (new - known)
