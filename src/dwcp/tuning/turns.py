"""When each stream measures its round trip, so that not all of them pause together.

A stream with a model of its path (BBR) all but stops for 200 ms and a round trip when it has not seen its least round
trip for 10 s: the queue drains and shows the path's own delay (ProbeRTT; Cardwell et al., 2016). Streams of a transfer
begin together, so all of them stop together, and for that time the path carries nothing. One that begins its model
anew does so 10 s after that: it keeps its window, and with the common limit (`rate.RateLimit`) it overruns nothing. So
each stream begins anew once, in a turn of its own; from then on some pause while the others go on.
"""

from __future__ import annotations

from collections.abc import Collection

FIRST = 1.5
"""Seconds from which on a stream has found its rate."""
LAST = 9.5
"""Seconds before which all must have had their turn: the first pause comes at 10."""
SPREAD = 0.618034
"""The golden ratio's fraction: its multiples are spread evenly over the turns, however many streams follow."""


class Turns:
    """Feed `due` as often as you like with the streams that there are, named by numbers from 0 up."""

    def __init__(self) -> None:
        self._turns: dict[int, float] = {}

    def due(self, now: float, streams: Collection[int]) -> list[int]:
        """Those whose turn has come; each is named once. `now`: monotonic seconds."""
        for number in streams:
            if number not in self._turns:
                self._turns[number] = now + FIRST + (number * SPREAD) % 1.0 * (LAST - FIRST)
        due = [number for number in streams if self._turns[number] <= now]
        for number in due:
            self._turns[number] = float("inf")
        return due
