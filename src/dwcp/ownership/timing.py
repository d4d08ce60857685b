"""How long a call to the registry may take: what an election of its takes, and then some."""

from __future__ import annotations

ELECTION_ROUND_TRIPS = 10
"""etcd's tuning guide: an election timeout is at least ten round trips between members."""
CHANGE = 1.5
"""A new value counts only where it is so much larger or smaller: round trips vary."""
ELECTIONS = 4
"""A split vote costs another one, and finding the new leader a call."""
LEAST = 0.75
"""Seconds, for what a disk that is busy takes."""


class Election:
    """The election timeout that is reckoned with. `adaptive`: it follows the round trips to the members."""

    def __init__(self, configured: float, *, adaptive: bool) -> None:
        self.seconds = self._configured = configured
        self._adaptive = adaptive

    def measured(self, round_trip: float) -> bool:
        """Whether it changes by that; `round_trip` in seconds."""
        if not self._adaptive:
            return False
        wanted = max(self._configured, ELECTION_ROUND_TRIPS * round_trip)
        if self.seconds / CHANGE < wanted < self.seconds * CHANGE:
            return False
        self.seconds = wanted
        return True

    @property
    def call(self) -> float:
        """Seconds for one call, with all its tries."""
        return LEAST + ELECTIONS * self.seconds
