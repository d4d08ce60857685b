"""What was learned of the path to a peer, for the next transfer: a small file a peer in the state directory.

It is a hint: a file that is missing, damaged or out of date costs a transfer some seconds of learning, nothing else.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import structlog

from dwcp.store import durable

DIRECTORY = "paths"

log = structlog.get_logger()


class PathMemory(msgspec.Struct, frozen=True):
    """`rate`: bits per second of goodput with `streams` streams; `congestion`: the algorithm that they ran."""

    streams: int
    rate: float
    congestion: str


def recall(state_dir: Path, peer: str, congestion: str) -> PathMemory | None:
    """None where nothing is known of the path with this congestion control."""
    try:
        memory = msgspec.json.decode(_file(state_dir, peer, congestion).read_bytes(), type=PathMemory)
    except (OSError, msgspec.DecodeError):
        return None
    return memory if memory.streams > 0 and memory.rate > 0 else None


def remember(state_dir: Path, peer: str, memory: PathMemory) -> None:
    """Whole or not at all; that it cannot be written is logged and of no further consequence."""
    path = _file(state_dir, peer, memory.congestion)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        durable.write(path, msgspec.json.encode(memory), sync=False)
    except OSError as error:
        log.info("what was learned of a path is not kept", peer=peer, reason=str(error))


def _file(state_dir: Path, peer: str, congestion: str) -> Path:
    """Names of peers and algorithms are such that they can be names of files (`config.model.NODE_NAME`)."""
    return state_dir / DIRECTORY / f"{peer}.{congestion}.json"
