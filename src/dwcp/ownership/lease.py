"""One node's lease as its holder counts it.

The engine counts from when it heard of the lease, the holder from before it spoke: whatever the delay, the holder is
the first to think that it is over (Gray and Cheriton, "Leases", 1989). A holder that was paused finds its deadline
passed when it looks. What a former holder had sent before is for fencing tokens to stop, not for clocks.

    held          the deadline has not passed
    doubtful      it has, and the engine has not been asked since
    unconfirmed   it has, and the engine could not be asked: nobody else can have been given the lease by an engine that
                  is down, and who was cut off from one that is up has receivers which know better
    lost          the engine said so
"""

from __future__ import annotations

from enum import StrEnum

DRIFT = 0.01
"""Share of a lease's time by which clocks may differ over it: twenty times what NTP corrects (500 ppm)."""
KEEPS = 3
"""Times that a lease is kept in its time: two may fail."""


class LeaseState(StrEnum):
    HELD = "held"
    DOUBTFUL = "doubtful"
    UNCONFIRMED = "unconfirmed"
    LOST = "lost"


class Hold:
    """All times are seconds of one clock that goes on while the machine sleeps."""

    def __init__(self, margin: float = 0.0) -> None:
        """`margin`: seconds for which a leader of the engine that has been replaced may answer: it gives time that the
        new one knows nothing of."""
        self._margin = margin
        self._deadline = -1.0
        self._seconds = 0.0
        self._kept_at = 0.0
        self._failed_at = -1.0
        self._is_lost = True

    @property
    def deadline(self) -> float:
        """When it is over, where it is not kept."""
        return self._deadline

    def kept(self, sent_at: float, seconds: float) -> None:
        """The engine gave it, or time for it, in answer to what was sent at `sent_at`; in any order."""
        self._is_lost = False
        self._seconds = seconds
        self._kept_at = max(self._kept_at, sent_at)
        self._deadline = max(self._deadline, sent_at + seconds * (1 - DRIFT) - self._margin)

    def failed(self, sent_at: float) -> None:
        """What was sent at `sent_at` to keep it had no answer."""
        self._failed_at = max(self._failed_at, sent_at)

    def lost(self) -> None:
        """The engine does not know it any more, or it was given back."""
        self._is_lost = True
        self._deadline = -1.0

    def state(self, now: float) -> LeaseState:
        if self._is_lost:
            return LeaseState.LOST
        if now < self._deadline:
            return LeaseState.HELD
        return LeaseState.UNCONFIRMED if self._failed_at >= self._deadline else LeaseState.DOUBTFUL

    def next_keep(self) -> float:
        """When to keep it."""
        return self._kept_at + self._seconds / KEEPS
