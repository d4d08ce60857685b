"""The one shape that every component has; the manager knows nothing else about them."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from typing import Protocol

import structlog

from dwcp.supervise.health import Health

LEEWAY = 5.0
"""Seconds that a task may take for what it does between two sleeps, as the default of health.timeout."""

log = structlog.get_logger()


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
    """A component whose job is a task that goes on until it is stopped.

    The task says each time by when it will say something again (`_alive`, or `_sleep`, which does that): one that hangs
    breaks its word, and `_trouble` tells.
    """

    name: str
    leeway = LEEWAY
    _task: asyncio.Task[None] | None = None
    _word = 0.0
    """Monotonic seconds by which the task will have said something."""

    @abstractmethod
    async def _run(self) -> None:
        """The job; never returns."""

    async def start(self) -> None:
        self._alive()
        self._task = asyncio.create_task(self._run(), name=f"dwcp-{self.name}")
        self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            # what ended it has been told; our own cancellation comes back
            await asyncio.wait([task])

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            log.error("a component's task has ended", component=self.name, exc_info=task.exception())

    def _trouble(self) -> str:
        """Why the job is not done any more; empty while it is."""
        task = self._task
        if task is None:
            return "it was stopped"
        if task.done():
            error = None if task.cancelled() else task.exception()
            return f"its task has ended ({type(error).__name__}: {error})" if error else "its task has ended"
        late = time.monotonic() - self._word
        return f"its task hangs: it has been waited for {late:.1f} s longer than it should take" if late > 0 else ""

    def _alive(self, seconds: float | None = None) -> None:
        """Says that the task lives, and will say so again within so many seconds; without, `leeway`."""
        self._word = time.monotonic() + (self.leeway if seconds is None else seconds)

    async def _sleep(self, seconds: float) -> None:
        self._alive(seconds + self.leeway)
        await asyncio.sleep(seconds)
        self._alive()
