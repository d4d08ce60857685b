"""This node's lease at the registry: had, kept, and taken up again by the next run of the manager.

A manager that is restarted within its lease finds the lease in the file `session` and goes on as the owner that it was:
nobody else can be one meanwhile, and no other process can use the state directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from dwcp.errors import StateError
from dwcp.ownership.lease import Hold, LeaseState
from dwcp.registry.interface import Lease, LeaseLostError, Registry, RegistryError
from dwcp.store import durable

FILE = "session"
CLUSTER = "cluster"
RETRY = 0.3
"""Seconds between two tries to keep a lease that were not answered, more or less by half."""

log = structlog.get_logger()


def clock() -> float:
    """Seconds that go on while the machine sleeps, unlike those of time.monotonic()."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _Remembered(msgspec.Struct, frozen=True):
    cluster: str
    lease: int
    seconds: float


class Session:
    """`begin`, then `keep` for ever beside whatever uses the lease."""

    def __init__(self, state_dir: Path, seconds: Callable[[], float], election: float) -> None:
        """`seconds`: of a lease that is taken; `election`: within so many a leader learns that it was replaced."""
        self._file = state_dir / FILE
        self._cluster_file = state_dir / CLUSTER
        self._seconds = seconds
        self._lease: Lease | None = None
        self.hold = Hold(margin=election)
        self.problem = ""
        """Why the lease could not be kept at the last try."""

    @property
    def state(self) -> LeaseState:
        return self.hold.state(clock())

    def lease(self) -> Lease:
        """Raises LeaseLostError where there is none."""
        if self._lease is None:
            raise LeaseLostError("there is no lease")
        return self._lease

    def known_cluster(self) -> str:
        """Of an earlier run; empty where there was none. Raises StateError."""
        try:
            return self._cluster_file.read_text().strip()
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise StateError(f"cannot read {self._cluster_file}: {error.strerror}") from error

    async def begin(self, registry: Registry, cluster: str) -> None:
        """The lease that there was, or a new one. Raises RegistryError, StateError."""
        if self._lease is None:
            self._lease = await asyncio.to_thread(self._recall, cluster)
        if self._lease is not None and await self._kept(registry, self._lease):
            return
        sent_at = clock()
        lease = await registry.grant(self._seconds())
        await asyncio.to_thread(self._remember, cluster, lease)
        self._lease = lease
        self.hold.kept(sent_at, lease.seconds)

    async def keep(self, registry: Registry) -> None:
        """Raises LeaseLostError when it is over."""
        while True:
            await asyncio.sleep(max(0.0, self.hold.next_keep() - clock()))
            if not await self._tried(registry, self.lease()):
                # not a secret: it only keeps nodes from asking in step
                await asyncio.sleep(RETRY * random.uniform(0.5, 1.5))  # noqa: S311

    async def _tried(self, registry: Registry, lease: Lease) -> bool:
        """Raises LeaseLostError."""
        sent_at = clock()
        try:
            seconds = await registry.keep(lease)
        except LeaseLostError:
            self._lease = None
            self.hold.lost()
            raise
        except RegistryError as error:
            self.hold.failed(sent_at)
            if str(error) != self.problem:
                log.warning("the lease could not be kept", reason=str(error))
            self.problem = str(error)
            return False
        self.hold.kept(sent_at, seconds)
        self.problem = ""
        return True

    async def _kept(self, registry: Registry, lease: Lease) -> bool:
        with contextlib.suppress(LeaseLostError):
            if await self._tried(registry, lease):
                return True
            raise RegistryError(self.problem)
        return False

    def _recall(self, cluster: str) -> Lease | None:
        try:
            found = msgspec.json.decode(self._file.read_bytes(), type=_Remembered)
        except (OSError, msgspec.DecodeError):
            # a new lease is as good, only later
            return None
        return Lease(found.lease, found.seconds) if found.cluster == cluster else None

    def _remember(self, cluster: str, lease: Lease) -> None:
        try:
            durable.write(self._file, msgspec.json.encode(_Remembered(cluster, lease.id, lease.seconds)))
            if self.known_cluster() != cluster:
                durable.write(self._cluster_file, cluster.encode() + b"\n")
        except OSError as error:
            raise StateError(f"cannot write {error.filename or self._file}: {error.strerror}") from error
