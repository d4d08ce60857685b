"""What a component's check says, what of it is shown, and what a node's components together amount to.

What is shown follows the checks, except that a component that flaps has to earn its way back:

    the newest check                         penalty      what is shown
    as good as the one before                as it was    what the check says
    worse than the one before                one more     what the check says, at once
    better than the one before               as it was    what the check says, at once
    any but unhealthy, while it flaps        as above     degraded, with what it is waited for

The penalty halves each `half_life`. A component flaps from the moment that it is FLAPS or more, until it is below CALM
(route flap damping, RFC 2439: suppress and reuse limits with exponential decay). So bad news is never held back, two
faults with a recovery after each are shown as they are, and one that comes and goes does not ring a bell each time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from dwcp.supervise.breaker import BreakerStatus, State, worst

FLAPS = 2.5
"""The third time that it gets worse, unless the first was more than half a half-life ago."""
CALM = 1.0
MOST = 4.0
"""Of the penalty: two half-lives without another fault are always enough."""


class Status(StrEnum):
    """Of one component, or of the node. Ordered by `severity`."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"

    @property
    def severity(self) -> int:
        return list(Status).index(self)


@dataclass(frozen=True, slots=True)
class Health:
    """The answer of one check. `reason` is a sentence for people; empty only when healthy."""

    status: Status = Status.HEALTHY
    reason: str = ""


HEALTHY = Health()


class Damper:
    """Of one component: what its checks say in, what is shown out. `half_life` in seconds."""

    def __init__(self, half_life: float) -> None:
        self.half_life = half_life
        self.flaps = False
        self._before = Status.HEALTHY
        self._penalty = 0.0
        """At time `_at`, which is None before the first check."""
        self._at: float | None = None

    def observe(self, health: Health, now: float) -> Health:
        """A clock that steps back stands still until it goes on."""
        if self._at is not None:
            self._penalty *= 0.5 ** (max(0.0, now - self._at) / self.half_life)
        self._at = now
        if health.status.severity > self._before.severity:
            self._penalty = min(MOST, self._penalty + 1)
        self._before = health.status
        self.flaps = self._penalty >= (CALM if self.flaps else FLAPS)
        if not self.flaps or health.status is Status.UNHEALTHY:
            return health
        why = health.reason or "its newest check was healthy"
        return Health(Status.DEGRADED, f"it comes and goes, and has to keep for a while before it counts: {why}")


@dataclass(frozen=True, slots=True)
class ComponentHealth:
    """A component as the supervisor sees it at one moment."""

    name: str
    status: Status
    reason: str
    since: float
    """Wall-clock seconds since the epoch at which `status` was entered."""
    check_seconds: float
    """How long the newest check took."""
    recovering: bool
    """A restart is under way or waiting for its backoff."""
    failed: bool
    """Every attempt at recovery is spent; a slow retry goes on."""


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """The whole node: its components, the worst circuit breaker, and how long it has been up."""

    status: Status
    reason: str
    components: Mapping[str, ComponentHealth]
    circuit_breaker: str
    uptime_seconds: float
    """Monotonic seconds since the manager started."""

    @property
    def recovery_in_progress(self) -> bool:
        return any(component.recovering for component in self.components.values())

    @property
    def unhealthy_components(self) -> list[str]:
        """Names of all components that are not healthy, degraded ones included, as the runbook counts."""
        return [name for name, component in self.components.items() if component.status is not Status.HEALTHY]


def node_health(
    components: Iterable[ComponentHealth],
    breakers: Iterable[BreakerStatus],
    uptime_seconds: float,
    stalled: float = 0.0,
) -> NodeHealth:
    """Unhealthy when a component is failed or unhealthy with no recovery left to hope for, or supervision itself has
    stood still for `stalled` seconds (0: it runs); degraded when anything is not as it should be, an open breaker
    included."""
    by_name = {component.name: component for component in components}
    lost = [c for c in by_name.values() if c.failed or (c.status is Status.UNHEALTHY and not c.recovering)]
    ailing = [c for c in by_name.values() if c.status is not Status.HEALTHY or c.recovering]
    tripped = [breaker for breaker in breakers if breaker.state != State.CLOSED]
    if stalled:
        status, reason = Status.UNHEALTHY, f"supervision has stood still for {stalled:.0f} s: nothing here is current"
    elif lost:
        status, reason = Status.UNHEALTHY, "; ".join(f"{c.name} layer failed: {c.reason}" for c in lost)
    elif ailing:
        status, reason = Status.DEGRADED, "; ".join(f"{c.name}: {c.reason or 'recovering'}" for c in ailing)
    elif tripped:
        status = Status.DEGRADED
        reason = "; ".join(f"the circuit breaker of {b.name} is {b.state}: {b.reason}" for b in tripped)
    else:
        status, reason = Status.HEALTHY, ""
    return NodeHealth(status, reason, by_name, worst(b.state for b in tripped), uptime_seconds)
