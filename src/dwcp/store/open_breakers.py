"""Which circuit breakers of this node's manager are open, for the programs beside it (`dwcp send`, `import dwcp`).

    breakers   JSON {peer: {until, reason}}; locked (flock(2)) for as long as the manager runs

`until` is on the monotonic clock, which all processes of a machine share, so that a wall clock may step. A manager that
was killed has lost its lock, and what it wrote counts no more. Whoever cannot read the file, or finds half of one, goes
ahead: a breaker spares waiting, it protects nothing.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

FILE = "breakers"
MAX_SIZE = 2**20
"""Bytes: a thousand peers with a long reason each."""


class OpenBreaker(msgspec.Struct, frozen=True):
    """`until`: monotonic seconds; `reason`: what its calls failed with."""

    until: float
    reason: str


class OpenBreakers:
    """The manager's side. Not for several threads at once."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE
        self._fd: int | None = None

    def publish(self, breakers: Mapping[str, OpenBreaker]) -> None:
        """In place of what was published before. Raises OSError."""
        if self._fd is None:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX)
        raw = msgspec.json.encode(breakers)
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, raw, 0)

    def leave(self) -> None:
        """Nobody is kept away any more."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def open_breaker(state_dir: Path, peer: str, now: float) -> OpenBreaker | None:
    """Of a peer that the manager on this state directory leaves alone at `now` (monotonic seconds)."""
    try:
        fd = os.open(state_dir / FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raw = os.pread(fd, MAX_SIZE, 0)
    else:
        # nobody holds it
        return None
    finally:
        os.close(fd)
    try:
        found = msgspec.json.decode(raw, type=dict[str, OpenBreaker]).get(peer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if found is not None and found.until > now else None
