"""The component that keeps workloads at other sites."""

from __future__ import annotations

import time

from dwcp.manager.component import Background
from dwcp.supervise.health import HEALTHY, Health, Status
from dwcp.workloads.coordinator import IDLE, Workloads

LATE = 3
"""Longest pauses without a look before the component is called stuck."""


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
        if self._task is not None and self._task.done() and not self._task.cancelled():
            error = self._task.exception()
            return Health(Status.UNHEALTHY, f"workloads are not looked at any more: {error}")
        if not self._runs:
            return Health(Status.UNHEALTHY, "workloads are not looked at any more")
        looked_at = self._workloads.looked_at
        if looked_at and time.monotonic() - looked_at > LATE * IDLE:
            return Health(Status.UNHEALTHY, "workloads have not been looked at for minutes")
        problems = self._workloads.problems
        return Health(Status.DEGRADED, "; ".join(problems)) if problems else HEALTHY

    async def _run(self) -> None:
        await self._workloads.run()
