"""The board: every transfer this process takes part in, live and recent, for people and programs to read.

Threads of the data path write it, the HTTP API and the metrics read it; a lock guards both sides, and what is
handed out is a frozen copy.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from dwcp.errors import NotFoundError
from dwcp.forecast.eta import Rates

RECENT_TRANSFERS = 200
"""How many ended transfers are kept for `GET /transfers`: a screenful for people, under 100 KB of memory."""


class Role(StrEnum):
    """What this node does in the transfer."""

    SEND = "send"
    RECEIVE = "receive"


class State(StrEnum):
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class TransferStatus:
    """One transfer at one moment. Bytes count content, except `wire_bytes`."""

    id: str
    role: Role
    peer: str
    target: str
    """`EXPORT/PATH` at the node that stores or serves it."""
    state: State = State.RUNNING
    started_at: float = 0.0
    """Wall-clock seconds since the epoch."""
    seconds: float = 0.0
    files_total: int = 0
    """Known so far: grows while the source is still being scanned."""
    files_done: int = 0
    bytes_total: int = 0
    bytes_done: int = 0
    """Settled: sent and acknowledged, or found unchanged."""
    wire_bytes: int = 0
    """All that this transfer put on the network, both ways: TCP payload with TLS records and retransmissions."""
    streams: int = 0
    paused: bool = False
    """Nothing is sent until it is resumed, at either end; of a running one."""
    error: str = ""
    foreseen: Rates | None = None
    """What the link is forecast to carry; None where nobody forecasts it."""

    @property
    def rate(self) -> float:
        """Bits of content settled per second, averaged over the transfer."""
        return self.bytes_done * 8 / self.seconds if self.seconds > 0 else 0.0

    @property
    def ratio(self) -> float:
        """Bytes of content settled per byte on the wire; 0 while nothing was sent."""
        return self.bytes_done / self.wire_bytes if self.wire_bytes else 0.0

    @property
    def eta_range(self) -> tuple[float, float] | None:
        """Seconds to go at best and at worst, by the forecast of the link; None without one."""
        if self.foreseen is None or self.bytes_total < self.bytes_done or self.state is not State.RUNNING:
            return None
        best, _, worst = self.seconds_at(self.foreseen, self.eta_seconds)
        return best, worst

    def seconds_at(self, rates: Rates, seen: float | None) -> tuple[float, float, float]:
        """As `Rates.seconds`, for what is left. What is on its way is not settled yet, so that a ratio below 1 says
        nothing of the rest."""
        return rates.seconds((self.bytes_total - self.bytes_done) / max(self.ratio, 1.0), seen)

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to go at the average rate; None while nothing is settled."""
        left = self.bytes_total - self.bytes_done
        return left * 8 / self.rate if self.rate else None


class Observer(Protocol):
    """Is told in the transfer's own thread, before it begins and after it has ended; must not raise."""

    def began(self, status: TransferStatus) -> None: ...

    def ended(self, status: TransferStatus) -> None: ...


class Board:
    """Live and recent transfers of one process. All methods may be called from any thread."""

    def __init__(self, *observers: Observer, clock: Callable[[], float] = time.monotonic) -> None:
        self._observers = observers
        self._clock = clock
        self._lock = threading.Lock()
        self._live: dict[str, _Live] = {}
        self._recent: deque[TransferStatus] = deque(maxlen=RECENT_TRANSFERS)
        self._ended = dict.fromkeys((State.DONE, State.FAILED, State.CANCELLED), 0)

    def begin(
        self,
        status: TransferStatus,
        read: Callable[[TransferStatus], TransferStatus],
        cancel: Callable[[], None],
        pause: Callable[[bool], None],
    ) -> str:
        """Adds a transfer. `read` brings a status up to date from the transfer's own counters; `cancel` stops it;
        `pause(True)` pauses it, `pause(False)` lets it go on.

        Returns the id to `end` it by: a peer chose `status.id`, and may have chosen that of another live one.
        """
        with self._lock:
            name = status.id
            for number in itertools.count(2):
                if name not in self._live:
                    break
                name = f"{status.id}-{number}"
            status = replace(status, id=name, started_at=time.time())
            self._live[name] = _Live(status, self._clock(), read, cancel, pause)
        for observer in self._observers:
            observer.began(status)
        return name

    def end(self, transfer_id: str, state: State, error: str = "") -> TransferStatus:
        """Moves a transfer to the recent ones, its counters as they are now; what it came to."""
        with self._lock:
            live = self._live.pop(transfer_id)
        final = replace(self._read(live), state=state, error=error)
        with self._lock:
            self._recent.appendleft(final)
            self._ended[state] += 1
        for observer in self._observers:
            observer.ended(final)
        return final

    def live(self) -> list[TransferStatus]:
        """Running transfers, oldest first."""
        with self._lock:
            entries = list(self._live.values())
        return [self._read(entry) for entry in entries]

    def recent(self) -> list[TransferStatus]:
        """Ended transfers, newest first."""
        with self._lock:
            return list(self._recent)

    def ended(self) -> dict[State, int]:
        """How many transfers ended in each way."""
        with self._lock:
            return dict(self._ended)

    def get(self, transfer_id: str) -> TransferStatus:
        """One transfer, live or recent. Raises NotFoundError."""
        for status in [*self.live(), *self.recent()]:
            if status.id == transfer_id:
                return status
        raise NotFoundError(f"no transfer {transfer_id!r} here; GET /transfers lists them")

    def cancel(self, transfer_id: str) -> None:
        """Asks a live transfer to stop; it ends as `cancelled` soon after. Raises NotFoundError."""
        self._running(transfer_id).cancel()

    def pause(self, transfer_id: str, *, paused: bool) -> None:
        """Pauses a live transfer, or lets it go on; may wait for the network. Raises NotFoundError, RefusedError where
        the peer is too old to be asked, TemporaryError where it cannot be told."""
        self._running(transfer_id).pause(paused)

    def _running(self, transfer_id: str) -> _Live:
        with self._lock:
            live = self._live.get(transfer_id)
        if live is None:
            raise NotFoundError(f"no running transfer {transfer_id!r} here; GET /transfers lists them")
        return live

    def _read(self, live: _Live) -> TransferStatus:
        return replace(live.read(live.status), seconds=self._clock() - live.began)


@dataclass(frozen=True, slots=True)
class _Live:
    status: TransferStatus
    began: float
    read: Callable[[TransferStatus], TransferStatus]
    cancel: Callable[[], None]
    pause: Callable[[bool], None]
