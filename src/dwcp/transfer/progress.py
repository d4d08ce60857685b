"""How far a transfer is, counted by many threads."""

from __future__ import annotations

import threading
from dataclasses import replace

from dwcp.transfer.board import TransferStatus

MAX_ERRORS = 1000
"""Lines kept of what failed: more than anybody reads, and a peer cannot fill our memory with them."""


class Progress:
    """Files and bytes of content. `unchanged` and `deleted` count names, `failures` those that failed; `errors` has a
    line for each of the first MAX_ERRORS, `notes` for each kind of metadata that could not be kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files_total = self._files_done = self._bytes_total = self._bytes_done = 0
        self.unchanged = 0
        self.deleted = 0
        self.failures = 0
        self.passing = 0
        """Of the failures, those that another try may not have."""
        self.errors: list[str] = []
        self.notes: list[str] = []

    def add(
        self,
        *,
        files_total: int = 0,
        files_done: int = 0,
        bytes_total: int = 0,
        bytes_done: int = 0,
        unchanged: int = 0,
    ) -> None:
        with self._lock:
            self._files_total += files_total
            self._files_done += files_done
            self._bytes_total += bytes_total
            self._bytes_done += bytes_done
            self.unchanged += unchanged

    def failed(self, line: str, *, temporary: bool = False) -> None:
        """`temporary`: trying again may help."""
        with self._lock:
            self.failures += 1
            self.passing += temporary
            if len(self.errors) < MAX_ERRORS:
                self.errors.append(line)

    @property
    def bytes_done(self) -> int:
        return self._bytes_done

    def fill(self, status: TransferStatus) -> TransferStatus:
        """`status` with these counts."""
        with self._lock:
            return replace(
                status,
                files_total=self._files_total,
                files_done=self._files_done,
                bytes_total=self._bytes_total,
                bytes_done=self._bytes_done,
            )
