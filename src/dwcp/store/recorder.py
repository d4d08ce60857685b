"""What a process tells the transaction log. Nothing here raises or waits for more than it has to: a log that cannot be
written must not stop what it is about. What could not be written is counted, and said in the log once it can be."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog

from dwcp.store.records import Value
from dwcp.store.txlog import TransactionLog

MAX_WAITING = 1000
"""Notes that wait for the disk: a few hundred bytes each."""

log = structlog.get_logger()


class Note(Protocol):
    """Tells of something that has happened (`records.KINDS`); returns at once, from any thread, and never raises."""

    def __call__(self, kind: str, event: str, *, peer: str = "", **detail: Value) -> None: ...


def untold(kind: str, event: str, *, peer: str = "", **detail: Value) -> None:
    """A `Note` for where nobody keeps a log."""


class Recorder:
    """One process's hand on the log. `note` for those who must not wait, `write` for who may."""

    def __init__(self, state_dir: Path, size: int, *, sync: bool = False) -> None:
        """`size`: as of TransactionLog; `sync`: each record at once, for a process that does not live long."""
        self.log = TransactionLog(state_dir, size)
        self.unsynced = False
        """Something was written since the last `sync`."""
        self._sync = sync
        self._lock = threading.Lock()
        self._dropped = 0
        self._reason = ""
        self._waiting: queue.Queue[Callable[[], None] | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None

    @property
    def failure(self) -> str:
        """Why the log cannot be written now; empty when it can."""
        dropped, reason = self._dropped, self._reason
        return f"{dropped} records could not be written to {self.log.directory}: {reason}" if dropped else ""

    def note(self, kind: str, event: str, *, peer: str = "", **detail: Value) -> None:
        """Written by another thread, in the order of the calls."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dwcp-log", daemon=True)
                self._thread.start()
            try:
                self._waiting.put_nowait(lambda: self._append(kind, event, peer, detail))
            except queue.Full:
                self._dropped += 1
                self._reason = "the disk is slow"

    def write(self, kind: str, event: str, *, peer: str = "", **detail: Value) -> None:
        """Written, or counted as lost, when this returns."""
        self._append(kind, event, peer, detail)

    def _append(self, kind: str, event: str, peer: str, detail: dict[str, Value]) -> None:
        try:
            self._resume()
            self.log.append(kind, event, peer=peer, detail=detail, sync=self._sync)
        except (OSError, ValueError) as error:
            self._failed(error)
        else:
            self.unsynced = not self._sync

    def retry(self) -> None:
        """Looks whether the log can be written again, where it could not."""
        try:
            self._resume()
        except OSError as error:
            log.debug("the transaction log still cannot be written", reason=error.strerror)

    def sync(self) -> None:
        """What was written withstands a power cut when this returns."""
        self.unsynced = False
        try:
            self.log.sync()
        except OSError as error:
            log.warning("the transaction log is not on its disk", reason=error.strerror)

    def close(self, seconds: float) -> None:
        """Waits so long for what waits to be written. `note` may be called again afterwards."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            with contextlib.suppress(queue.Full):
                # the disk hangs, and with it the thread
                self._waiting.put(None, timeout=seconds)
                thread.join(seconds)
        if self.unsynced:
            self.sync()

    def _run(self) -> None:
        while (step := self._waiting.get()) is not None:
            step()

    def _resume(self) -> None:
        """Says first what is missing. Raises OSError."""
        with self._lock:
            lost, self._dropped = self._dropped, 0
            reason = self._reason
        if not lost:
            return
        try:
            self.log.append("log", "resumed", detail={"lost": lost, "reason": reason})
        except OSError:
            with self._lock:
                self._dropped += lost
            raise
        log.info("the transaction log is written again", lost=lost)

    def _failed(self, error: Exception) -> None:
        with self._lock:
            first = not self._dropped
            self._dropped += 1
            self._reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        if first:
            log.warning("the transaction log cannot be written", path=str(self.log.directory), reason=self._reason)
