"""What the queue of jobs holds (`store.jobs`), as values."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from dwcp.policy.queueing import JobState


class Settings(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a job needs to know beside source and target; fields as in WorkloadSection."""

    delete: bool = False
    checksum: str = "xxh3"
    keep: str = ""
    bandwidth: str = "100%"
    verify_rate: int = 0
    before: list[str] = []
    after: list[str] = []
    hook_timeout: float = 300.0
    ordered_by: str = ""
    """The peer for which it is; `source` is then EXPORT/PATH of this node, and never left by a symlink."""


@dataclass(frozen=True, slots=True)
class Job:
    """Times are seconds since the epoch, 0 for not yet. `kind`: send or verify; `target`: EXPORT/PATH at `peer`;
    `workload`: empty for one that was added by command; `reason`: why it failed, is parked, or waits."""

    id: int
    workload: str
    kind: str
    peer: str
    target: str
    source: str
    settings: Settings
    priority: int
    state: JobState
    attempts: int
    created_at: float
    not_before: float
    started_at: float
    ended_at: float
    reason: str
    version: str
    files: int
    bytes: int
    wire_bytes: int

    @property
    def place(self) -> str:
        """PEER:EXPORT/PATH."""
        return f"{self.peer}:{self.target}"


@dataclass(frozen=True, slots=True)
class NewJob:
    """Fields as of Job."""

    workload: str
    kind: str
    peer: str
    target: str
    source: str
    settings: Settings
    priority: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Of a workload at one target. `sent_at`: when the transfer began that brought the newest complete state there."""

    workload: str
    target: str
    sent_at: float
    verified_at: float
    version: str
    damaged: int


@dataclass(frozen=True, slots=True)
class Known:
    """A workload as the queue remembers it. `asked_at`: when its newest run was asked for, 0 before the first."""

    name: str
    since: float
    asked_at: float
    verify_asked_at: float
    paused: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job that is done has brought. `damaged`: stored files that could not be mended, of which `note` tells."""

    version: str = ""
    files: int = 0
    bytes: int = 0
    wire_bytes: int = 0
    damaged: int = 0
    note: str = ""
