"""Buffers, made once and used again: what bounds the memory of a node's transfers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """Bytes."""

    limit: int = 0
    allocated: int = 0
    idle: int = 0


class BufferPool:
    """Hands out memoryviews; together never more than `limit` bytes, except that one buffer may always be had.

    The newest buffer given back is the next one handed out: it is still in a cache.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._condition = threading.Condition()
        self._idle: list[bytearray] = []
        self._bytes = 0
        self._in_use = 0

    def resize(self, limit: int) -> None:
        """Frees what is idle beyond the new limit now, and what is in use as it comes back."""
        with self._condition:
            self.limit = limit
            while self._idle and self._bytes > limit:
                self._bytes -= len(self._idle.pop(0))
            self._condition.notify_all()

    def status(self) -> PoolStatus:
        with self._condition:
            return PoolStatus(self.limit, self._bytes, sum(map(len, self._idle)))

    @contextmanager
    def buffer(self, size: int) -> Iterator[memoryview]:
        """A buffer of exactly `size` bytes with arbitrary content; waits until there is room for it."""
        with self._condition:
            self._condition.wait_for(lambda: self._fits(size))
            raw = self._take(size)
        try:
            yield memoryview(raw)[:size]
        finally:
            with self._condition:
                self._in_use -= 1
                if self._bytes > self.limit and self._in_use:
                    self._bytes -= len(raw)
                else:
                    # the last one stays, though it be larger than the limit: it would be made again at once
                    self._idle.append(raw)
                # all: the first one to wake may want more than there is, and the next one less
                self._condition.notify_all()

    def _fits(self, size: int) -> bool:
        if any(len(raw) >= size for raw in self._idle) or not self._in_use:
            return True
        idle = sum(len(raw) for raw in self._idle)
        return self._bytes - idle + size <= self.limit

    def _take(self, size: int) -> bytearray:
        self._in_use += 1
        for position in range(len(self._idle) - 1, -1, -1):
            if len(self._idle[position]) >= size:
                return self._idle.pop(position)
        # smaller ones make room for the larger one
        while self._idle and self._bytes + size > self.limit:
            self._bytes -= len(self._idle.pop(0))
        self._bytes += size
        return bytearray(size)
