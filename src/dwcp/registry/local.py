"""A registry of one process alone: what ownership is tried out with, and what its rules are told by.

It keeps the whole contract, expiry by `clock` included, and nothing on disk.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable

from dwcp.registry.interface import Entry, Lease, LeaseLostError, Member, Snapshot


class LocalRegistry:
    """For one event loop; any number of its tasks."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._under: dict[str, int] = {}
        """Lease of each key that has one."""
        self._leases: dict[int, tuple[float, float]] = {}
        """(deadline, seconds) by id."""
        self._ids = itertools.count(1)
        self._moment = 0
        self._changes: list[tuple[int, str]] = []
        self._changed = asyncio.Condition()

    async def open(self) -> str:
        return "local"

    async def close(self) -> None:
        """Nothing is held."""

    async def grant(self, seconds: float) -> Lease:
        lease = Lease(next(self._ids), seconds)
        self._leases[lease.id] = (self._clock() + seconds, seconds)
        return lease

    async def keep(self, lease: Lease) -> float:
        await self._expire()
        if lease.id not in self._leases:
            raise LeaseLostError("the lease has ended")
        self._leases[lease.id] = (self._clock() + lease.seconds, lease.seconds)
        return lease.seconds

    async def revoke(self, lease: Lease) -> None:
        if lease.id in self._leases:
            await self._end(lease.id)

    async def get(self, key: str) -> Entry | None:
        await self._expire()
        return self._entries.get(key)

    async def snapshot(self, prefix: str) -> Snapshot:
        await self._expire()
        found = {key: entry for key, entry in self._entries.items() if key.startswith(prefix)}
        return Snapshot(self._moment, found)

    async def swap(self, key: str, version: int, value: bytes, lease: Lease | None = None) -> Entry | None:
        await self._expire()
        if lease is not None and lease.id not in self._leases:
            raise LeaseLostError("the lease has ended")
        old = self._entries.get(key)
        if (old.version if old is not None else 0) != version:
            return None
        self._moment += 1
        entry = Entry(key, value, self._moment, old.token if old is not None else self._moment)
        self._entries[key] = entry
        self._under.pop(key, None)
        if lease is not None:
            self._under[key] = lease.id
        await self._tell(key)
        return entry

    async def remove(self, key: str, version: int) -> bool:
        await self._expire()
        old = self._entries.get(key)
        if old is None or old.version != version:
            return False
        await self._drop(key)
        return True

    async def watch(self, prefix: str, after: int) -> AsyncIterator[int]:
        seen = after
        while True:
            async with self._changed:
                while (newest := self._newest(prefix)) <= seen:
                    await self._changed.wait()
            seen = newest
            yield newest

    async def members(self) -> list[Member]:
        return [Member("local", is_leader=True, has_leader=True)]

    async def voters(self) -> int:
        return 1

    def _newest(self, prefix: str) -> int:
        return next((moment for moment, key in reversed(self._changes) if key.startswith(prefix)), 0)

    async def _expire(self) -> None:
        now = self._clock()
        for number in [number for number, (deadline, _) in self._leases.items() if deadline <= now]:
            await self._end(number)

    async def _end(self, number: int) -> None:
        del self._leases[number]
        for key in [key for key, lease in self._under.items() if lease == number]:
            await self._drop(key)

    async def _drop(self, key: str) -> None:
        self._moment += 1
        del self._entries[key]
        self._under.pop(key, None)
        await self._tell(key)

    async def _tell(self, key: str) -> None:
        self._changes = [*self._changes[-999:], (self._moment, key)]
        async with self._changed:
            self._changed.notify_all()
