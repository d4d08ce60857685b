"""What a component's check says, and what a node's components together amount to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


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


def node_health(components: list[ComponentHealth], breaker: str, uptime_seconds: float) -> NodeHealth:
    """Unhealthy when a component is failed or unhealthy with no recovery left to hope for; degraded when anything is
    not as it should be, an open breaker included."""
    by_name = {component.name: component for component in components}
    lost = [c for c in components if c.failed or (c.status is Status.UNHEALTHY and not c.recovering)]
    ailing = [c for c in components if c.status is not Status.HEALTHY or c.recovering]
    if lost:
        status, reason = Status.UNHEALTHY, "; ".join(f"{c.name} layer failed: {c.reason}" for c in lost)
    elif ailing:
        status, reason = Status.DEGRADED, "; ".join(f"{c.name}: {c.reason or 'recovering'}" for c in ailing)
    elif breaker != "closed":
        status, reason = Status.DEGRADED, f"a circuit breaker is {breaker}"
    else:
        status, reason = Status.HEALTHY, ""
    return NodeHealth(status, reason, by_name, breaker, uptime_seconds)
