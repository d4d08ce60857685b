"""The component that keeps workloads at other sites."""

from __future__ import annotations

from dwcp.manager.component import Background
from dwcp.supervise.health import HEALTHY, Health, Status
from dwcp.workloads.coordinator import Workloads


class WorkloadsComponent(Background):
    """Checks that it looks, and that it sees the changes that it was asked to see."""

    name = "workloads"

    def __init__(self, workloads: Workloads) -> None:
        self._workloads = workloads

    async def start(self) -> None:
        await self._workloads.start()
        await super().start()

    async def stop(self) -> None:
        await super().stop()
        await self._workloads.stop()

    async def check(self) -> Health:
        trouble = self._trouble()
        if trouble:
            return Health(Status.UNHEALTHY, f"workloads are not looked at any more: {trouble}")
        problems = self._workloads.problems
        return Health(Status.DEGRADED, "; ".join(problems)) if problems else HEALTHY

    async def _run(self) -> None:
        await self._workloads.run(lambda seconds: self._alive(seconds + self.leeway))
