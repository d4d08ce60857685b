"""What ownership needs of an engine that many nodes agree through: leases, compare-and-swap, watch, fencing tokens.

Nothing of an engine's own leaks out of an implementation. Everything is bounded by the implementation's own timeout.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from dwcp.errors import ConsensusError


class Trouble(StrEnum):
    """What an engine can suffer from, by name."""

    UNREACHABLE = "unreachable"
    SLOW = "slow"
    FULL = "full"
    NO_QUORUM = "no-quorum"
    CERTIFICATE = "certificate"
    CREDENTIALS = "credentials"
    ANOTHER_CLUSTER = "another-cluster"
    VERSION = "version"
    FAULT = "fault"


class RegistryError(ConsensusError):
    """The engine did not do what it was asked to. The message says what is wrong with it, and what to do; a write that
    failed with this has not been made."""

    def __init__(self, message: str, trouble: Trouble = Trouble.FAULT) -> None:
        super().__init__(message)
        self.trouble = trouble


class UnknownOutcomeError(RegistryError):
    """A write was sent, and nobody knows whether it has been or will be made: read before it is tried again."""


class LeaseLostError(RegistryError):
    """The lease has expired or was revoked: what was written under it is gone."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key and its value. `version` changes with every write of it; `token` is of the write that made it exist, larger
    than that of all keys made before it: a fencing token."""

    key: str
    value: bytes
    version: int
    token: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All keys below a prefix at one moment. `moment` grows with every write anywhere."""

    moment: int
    entries: dict[str, Entry] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Member:
    """One voter of the engine, as it answers for itself; `problem` where it does not."""

    endpoint: str
    name: str = ""
    version: str = ""
    is_leader: bool = False
    has_leader: bool = False
    size: int = 0
    """Bytes of its database."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """What is written under it goes when it ends. `seconds`: how long it lasts without being kept."""

    id: int
    seconds: float


class Registry(Protocol):
    """Every method raises RegistryError, and may be called at the same time as others."""

    async def open(self) -> str:
        """Connects, and says which cluster it is: a name that no other one has."""
        ...

    async def close(self) -> None: ...

    async def grant(self, seconds: float) -> Lease: ...

    async def keep(self, lease: Lease) -> float:
        """Begins the lease's time anew; seconds that it lasts from some moment after this was called. Raises
        LeaseLostError."""
        ...

    async def revoke(self, lease: Lease) -> None:
        """Ends it, where it has not ended."""
        ...

    async def get(self, key: str) -> Entry | None:
        """As of a moment after this was called."""
        ...

    async def snapshot(self, prefix: str) -> Snapshot:
        """As of a moment after this was called."""
        ...

    async def swap(self, key: str, version: int, value: bytes, lease: Lease | None = None) -> Entry | None:
        """Writes where the key has this version (0: does not exist); None, and nothing written, where it has not.
        `value` should be unlike what anybody else writes there: a write whose answer was lost is told by it. Raises
        UnknownOutcomeError; LeaseLostError."""
        ...

    async def remove(self, key: str, version: int) -> bool:
        """Removes it where it has this version. Raises UnknownOutcomeError."""
        ...

    def watch(self, prefix: str, after: int) -> AsyncIterator[int]:
        """The moments of changes below the prefix after the moment `after`, until it raises."""
        ...

    async def members(self) -> list[Member]:
        """All that are configured. Raises nothing."""
        ...

    async def voters(self) -> int:
        """How many there are, configured here or not."""
        ...
