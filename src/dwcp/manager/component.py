"""The one shape that every component has; the manager knows nothing else about them."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import Protocol

from dwcp.supervise.health import Health


class Component(Protocol):
    """A part of the node that is started, checked and stopped by the manager.

    `start` returns when the component does its job and raises a `DwcpError` when it can't. `stop` finishes or
    journals what is in flight and never raises for something that is already gone. `check` tests what a user
    would miss; it may take long or raise: the manager bounds it and takes an exception for unhealthy.
    A component can be started again after it was stopped.
    """

    @property
    def name(self) -> str: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def check(self) -> Health: ...


class Background(ABC):
    """A component whose job is a task that goes on until it is stopped."""

    name: str
    _task: asyncio.Task[None] | None = None

    @abstractmethod
    async def _run(self) -> None:
        """The job; never returns."""

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"dwcp-{self.name}")

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            # our own cancellation comes back; or what it failed with, which the check has told
            await asyncio.gather(task, return_exceptions=True)

    @property
    def _runs(self) -> bool:
        return self._task is not None and not self._task.done()
