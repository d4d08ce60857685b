"""What HTTP and metrics see of a node. The manager implements it; tests stand in for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from dwcp.config import Config
from dwcp.config.workloads import WorkloadSection
from dwcp.prediction.predictor import LinkView
from dwcp.store.fences import FenceRecord
from dwcp.store.links import Sample
from dwcp.supervise.breaker import BreakerStatus
from dwcp.supervise.health import NodeHealth
from dwcp.supervise.memory import MemoryStatus
from dwcp.supervise.recovery import RecoveryCounts
from dwcp.transfer.board import Board
from dwcp.transfer.counters import TransportCounters
from dwcp.transfer.pool import PoolStatus
from dwcp.transfer.shared_state import SharedState
from dwcp.workloads.coordinator import Workloads
from dwcp.workloads.ownership import Ownership


@dataclass(frozen=True, slots=True)
class SendingLimit:
    """How fast the node may send now."""

    bits_per_second: int | None
    """None: there is no limit."""
    by_operator: bool
    """Set with `dwcp limit` or over HTTP, and not as configured."""


class NodeView(Protocol):
    """All methods are cheap and may be called at any time from the event loop."""

    @property
    def config(self) -> Config: ...

    @property
    def board(self) -> Board: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def addresses(self) -> Mapping[str, str]:
        """Bound HOST:PORT of transport, http and https, as far as they listen."""
        ...

    @property
    def workloads(self) -> Workloads:
        """Its `status` is cheap; its requests are awaited."""
        ...

    @property
    def ownership(self) -> Ownership | None:
        """None without consensus. Its `status` is cheap; its requests are awaited."""
        ...

    def fences(self) -> list[FenceRecord]:
        """Tokens of workloads that this node has let in; reads the disk, and may be called from any thread. Raises
        StateError."""
        ...

    async def unfence(self, key: str) -> None:
        """Raises NotFoundError, StateError."""
        ...

    @property
    def sync(self) -> SharedState:
        """What is known of all nodes. Its `status` is cheap; all else blocks, and may be called from any thread."""
        ...

    async def add_workload(self, name: str, workload: WorkloadSection) -> None:
        """Remembers it in the state directory. Raises UsageError when the name is taken, StateError."""
        ...

    async def remove_workload(self, name: str) -> None:
        """Raises NotFoundError, UsageError for one of the configuration, StateError."""
        ...

    def health(self) -> NodeHealth: ...

    def breakers(self) -> Mapping[str, BreakerStatus]:
        """By peer."""
        ...

    def reset_breakers(self, peer: str | None) -> None:
        """One, or all. Raises NotFoundError for a peer that has none."""
        ...

    def recoveries(self) -> Mapping[str, RecoveryCounts]:
        """By component."""
        ...

    def transport(self) -> TransportCounters: ...

    def sockets(self) -> tuple[Mapping[str, str], list[str]]:
        """What the transport's sockets really have, and what they were refused."""
        ...

    def links(self) -> Mapping[str, LinkView]:
        """Forecasts, by peer; empty without prediction."""
        ...

    def link_samples(self, peer: str) -> list[Sample]:
        """What was measured of the link to a peer, oldest first; reads the disk, and may be called from any thread.
        Raises NotFoundError for a peer that is not configured."""
        ...

    def memory(self) -> MemoryStatus:
        """As the soft budget saw it last."""
        ...

    def buffers(self) -> PoolStatus:
        """Of transfers."""
        ...

    def throughput(self) -> tuple[float, float]:
        """Bits per second (sent, received) over the newest collection interval."""
        ...

    def limit(self) -> SendingLimit: ...

    async def set_limit(self, rate: str) -> None:
        """A rate like 200Mbit/s, off, or auto. Raises UsageError or StateError."""
        ...
