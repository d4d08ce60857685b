"""HTTP connections of the manager: bounded in number, and in how long one may keep us waiting."""

from __future__ import annotations

import asyncio
import time
from typing import cast

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

HEAD_SECONDS = 10.0
"""From the beginning of a connection, or of a request on it, to the end of its head."""
MAX_CONNECTIONS = 512
"""For one more, the one that waits for a request for longest has to go."""


class Connection(H11Protocol):
    """uvicorn ends a connection that is quiet between two requests; this one also ends what never asks."""

    _since = 0.0
    _patience: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """No request is being answered."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or cycle.response_complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self._since = time.monotonic()
        self._follow()
        if len(self.connections) > MAX_CONNECTIONS:
            idle = [other for other in self.connections if isinstance(other, Connection) and other.idle]
            min(idle, key=lambda other: other._since).transport.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._follow()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._end_patience()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._since = time.monotonic()

    def _follow(self) -> None:
        """Time runs while a head is not whole, however many bytes of it come."""
        if not self.idle:
            self._end_patience()
        elif self._patience is None:
            self._patience = self.loop.call_later(HEAD_SECONDS, self._lose_patience)

    def _lose_patience(self) -> None:
        self._patience = None
        if self.idle:
            self.transport.abort()

    def _end_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
