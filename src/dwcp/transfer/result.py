"""What is left of a transfer when it has ended."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TransferResult:
    """How a transfer ended. `bytes` of content in `files`; `wire_bytes` as in TransferStatus."""

    files: int
    bytes: int
    wire_bytes: int
    seconds: float
    verified: bool
    unchanged: int
    """Files that were there already."""
    deleted: int
    streams: int
    """The most that were in use at once."""
    sockets: dict[str, str] = field(default_factory=dict)
    """What the control connection's socket was really given."""
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
