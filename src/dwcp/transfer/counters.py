"""What a node's transport has done, for metrics and the status page."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TransportCounters:
    """A copy at one moment. Bytes are TCP payload with TLS records and retransmissions."""

    active_streams: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    latency_seconds: Mapping[str, float] = field(default_factory=dict)
    """Round trip to each peer that is connected."""
    frames_corrupt: int = 0
    sessions: int = 0
    """Control connections open now."""
    blocks_resent: int = 0
    refused: int = 0
    """Connections that did not get through the handshake."""
    files_received: int = 0
    files_sent: int = 0
    rdma_streams: int = 0
    """Of the active ones."""
    rdma_failures: int = 0
    """Streams over RDMA that broke, and were replaced by others over TCP."""


class Tally:
    """Counts that threads of the data path add to. Names are those of TransportCounters."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}

    def add(self, name: str, amount: int = 1) -> None:
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + amount

    def read(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)
