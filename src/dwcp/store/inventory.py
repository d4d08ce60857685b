"""Which copies of what was sent are kept here, in short (`store.baselines`)."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from dwcp.store.baselines import DIRECTORY, About

NAMED = 100
"""Files of one peer that are named: the newest."""


@dataclass(slots=True)
class Inventory:
    """Of one peer. `newest`: (path below what was sent, seconds since the epoch at which the copy was made)."""

    files: int = 0
    bytes: int = 0
    newest: list[tuple[str, float]] = field(default_factory=list)


def take_inventory(state_dir: Path) -> dict[str, Inventory]:
    """By peer. What goes away meanwhile, or cannot be read, is left out."""
    found: dict[str, Inventory] = {}
    for path in sorted((state_dir / DIRECTORY).glob("*/*.json")):
        with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
            about = msgspec.json.decode(path.read_bytes(), type=About)
            size = path.with_suffix("").stat().st_size
            of_peer = found.setdefault(path.parent.name, Inventory())
            of_peer.files += 1
            of_peer.bytes += size
            of_peer.newest.append((about.path, about.made))
    for of_peer in found.values():
        of_peer.newest = sorted(of_peer.newest, key=lambda copy: copy[1], reverse=True)[:NAMED]
    return found
