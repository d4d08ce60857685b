"""Whether this node runs a workload: what the coordinator asks before it does anything for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dwcp.config import Config
from dwcp.config.workloads import WorkloadSection
from dwcp.ownership.decide import Policy
from dwcp.wire.messages import Fence


@dataclass(frozen=True, slots=True)
class Grant:
    """Under which ownership a job writes. `held`: whether the lease that it stands on has not run out; of interest
    where the receiver cannot tell a former owner by itself."""

    fence: Fence
    held: Callable[[], bool]


def policy_of(workload: WorkloadSection) -> Policy:
    """Who may own it, as `dwcp.ownership` knows it."""
    return Policy(tuple(workload.owners), workload.failover == "any")


class Owners(Protocol):
    """All but `refused` may be called from any thread."""

    def owner(self, workload: str) -> str:
        """The node that runs it, as far as this one knows; empty where nobody does."""
        ...

    def may_run(self, workload: str) -> bool:
        """Its jobs may be begun here, now."""
        ...

    def schedules(self, workload: str) -> bool:
        """It is this node that has to look when it is due."""
        ...

    def grant(self, workload: str) -> Grant | None:
        """None where no ownership has to be shown. Raises TemporaryError where it has been lost."""
        ...

    def refused(self, workload: str) -> None:
        """A receiver has seen a later owner. From the event loop."""
        ...

    def job_ended(self) -> None:
        """What was waited for may be over. From the event loop."""
        ...


class StaticOwners:
    """Without consensus: the first in `owners` runs it, and whoever declares one that has none."""

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config

    def owner(self, workload: str) -> str:
        config = self._config()
        declared = config.workloads.get(workload)
        return declared.owners[0] if declared is not None and declared.owners else config.node.name

    def may_run(self, workload: str) -> bool:
        return self.owner(workload) == self._config().node.name

    def schedules(self, workload: str) -> bool:
        return self.may_run(workload)

    def grant(self, workload: str) -> Grant | None:
        return None

    def refused(self, workload: str) -> None:
        """Without a token nobody refuses."""

    def job_ended(self) -> None:
        """Nobody waits for it."""
