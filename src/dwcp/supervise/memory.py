"""How much of its buffers a node gives up when its memory is over the soft budget.

    observation                              level
    over the limit                           one more, up to MAX_LEVEL: each halves the buffers
    below CALM of the limit for CALM_SECONDS one less
    anything else                            as it was

One step an observation, so that each has time to show in the next. The gap between the two bounds keeps it from
swinging, as buffers are some quarter of the limit.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_LEVEL = 3
"""An eighth: with the default limit 8 MiB of buffers, which a slow transfer still does with."""
CALM = 0.8
"""Share of the limit. The buffers come back to at most a quarter of it, in steps of an eighth at most."""
CALM_SECONDS = 60.0
"""A new transfer has taken what it takes by then."""


@dataclass(frozen=True, slots=True)
class MemoryStatus:
    """Sizes in bytes."""

    resident: int = 0
    """At the newest observation."""
    limit: int = 0
    level: int = 0
    shrinks: int = 0
    """Steps taken upwards since the start."""

    @property
    def over(self) -> bool:
        return self.resident > self.limit


class MemoryBudget:
    def __init__(self) -> None:
        self.status = MemoryStatus()
        self._calm_since: float | None = None

    def observe(self, resident: int, limit: int, now: float) -> bool:
        """Whether the level changes. `now` in monotonic seconds."""
        before = self.status
        level, shrinks = before.level, before.shrinks
        if resident >= limit * CALM:
            self._calm_since = None
        elif self._calm_since is None:
            self._calm_since = now
        if resident > limit and level < MAX_LEVEL:
            level, shrinks = level + 1, shrinks + 1
        elif self._calm_since is not None and now - self._calm_since >= CALM_SECONDS and level:
            level, self._calm_since = level - 1, now
        self.status = MemoryStatus(resident, limit, level, shrinks)
        return level != before.level
