"""The claim on a state directory: one manager at a time, and nobody who changes its layout beside it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from dwcp.errors import StateError

FILE = "lock"


class ClaimedError(StateError):
    """Somebody else has the claim."""


class Claim:
    """flock(2) on `lock` in the state directory, which names the process that has it."""

    def __init__(self, directory: Path) -> None:
        """Raises ClaimedError while another manager has it, or StateError."""
        self._path = directory / FILE
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(f"cannot open {self._path}: {error.strerror}; make it writable for this user") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._fd)
            raise ClaimedError(
                f"another manager (pid {holder}) uses the state directory {directory}; "
                f"stop that one, or give this one its own storage.state_dir"
            ) from error
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            os.close(self._fd)
            raise StateError(f"cannot write {self._path}: {error.strerror}; free space there") from error

    def release(self) -> None:
        os.close(self._fd)
