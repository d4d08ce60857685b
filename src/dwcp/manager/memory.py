"""The `memory` component: keeps the process to its soft budget, `memory.limit`."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import time
from collections.abc import Callable

import structlog

from dwcp.manager.component import Background
from dwcp.profiling.process import resident_bytes
from dwcp.supervise.health import HEALTHY, Health, Status
from dwcp.supervise.memory import MemoryBudget, MemoryStatus
from dwcp.units import format_size

INTERVAL = 1.0
"""Seconds between looks, some 35 µs each."""

log = structlog.get_logger()


class MemoryComponent(Background):
    """Looks at the resident memory, and lets buffers shrink and come back as the budget decides."""

    name = "memory"

    def __init__(
        self, limit: Callable[[], int], shrink: Callable[[int], int], read: Callable[[], int] = resident_bytes
    ) -> None:
        """`limit` in bytes, asked anew each time. `shrink` halves the buffers so many times, and gives the bytes that
        they may take now."""
        self._limit = limit
        self._shrink = shrink
        self._read = read
        self._budget = MemoryBudget()
        self._blind = ""

    def status(self) -> MemoryStatus:
        return self._budget.status

    async def start(self) -> None:
        await self.look()
        await super().start()

    async def check(self) -> Health:
        trouble = self._trouble()
        if trouble:
            return Health(Status.UNHEALTHY, f"memory is not looked at any more: {trouble}")
        if self._blind:
            return Health(Status.DEGRADED, f"the memory in use cannot be read: {self._blind}")
        status = self.status()
        if not status.over:
            return HEALTHY
        return Health(
            Status.DEGRADED,
            f"{format_size(status.resident)} of memory are resident, memory.limit is {format_size(status.limit)}; "
            f"transfer buffers were halved {status.level} times; use fewer streams, or raise the limit",
        )

    async def look(self) -> None:
        """Once: reads, and acts where the budget says so."""
        try:
            resident = self._read()
        except OSError as error:
            # for want of a descriptor: there will be one again
            self._blind = error.strerror or str(error)
            return
        self._blind = ""
        if not self._budget.observe(resident, self._limit(), time.monotonic()):
            return
        status = self.status()
        buffers = self._shrink(status.level)
        if status.over:
            await asyncio.to_thread(_give_back)
        log.warning(
            "memory is over its limit, buffers shrink" if status.over else "memory is calm, buffers grow",
            resident=status.resident,
            limit=status.limit,
            buffers=buffers,
        )

    async def _run(self) -> None:
        await self._sleep(INTERVAL)
        # what only the start has needed
        await asyncio.to_thread(_give_back)
        while True:
            await self._sleep(INTERVAL)
            await self.look()


def _give_back() -> None:
    """What is free goes back to the kernel. glibc keeps it otherwise (malloc_trim(3)); other C libraries have no such
    call, and do it themselves."""
    gc.collect()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
