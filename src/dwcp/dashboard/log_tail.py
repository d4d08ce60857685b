"""The newest of the transaction log, for pages: read once, then followed."""

from __future__ import annotations

import heapq
from collections import deque
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import msgspec
import structlog

from dwcp.store.records import Record
from dwcp.store.txlog import DIRECTORY, LogReader, list_files

KEPT = 200
"""Records of each of the two sorts below: some screens full."""
CHANGES = ("component", "breaker", "node")
"""Kinds that are kept apart, so that a busy hour of transfers does not push a component's history out."""
FILES_READ = 2
"""Of the log's files, the newest: one that has just been begun holds next to nothing."""

log = structlog.get_logger()


class LogTail:
    """`poll` reads the disk, in a thread, one call at a time; the rest belongs to the event loop."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._reader: LogReader | None = None
        self._changes: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._others: deque[dict[str, Any]] = deque(maxlen=KEPT)

    def newest(self) -> list[dict[str, Any]]:
        """What is kept, oldest first."""
        return list(heapq.merge(self._changes, self._others, key=itemgetter("seq")))

    def keep(self, records: list[dict[str, Any]]) -> None:
        """For `newest`."""
        for record in records:
            (self._changes if record["kind"] in CHANGES else self._others).append(record)

    def poll(self) -> list[dict[str, Any]]:
        """What was written since, oldest first, at most KEPT of each sort; to be kept with `keep`. Damage is left to
        `dwcp state verify`."""
        changes: deque[Record] = deque(maxlen=KEPT)
        others: deque[Record] = deque(maxlen=KEPT)
        try:
            reader = self._reader or self._open()
            for entry in reader.poll():
                if isinstance(entry, Record):
                    (changes if entry.kind in CHANGES else others).append(entry)
        except OSError as error:
            # health says what is wrong with the directory
            log.debug("the transaction log cannot be shown", reason=str(error))
        return [msgspec.to_builtins(record) for record in heapq.merge(changes, others, key=attrgetter("seq"))]

    def _open(self) -> LogReader:
        oldest = list_files(self._state_dir / DIRECTORY)[-FILES_READ:][:1]
        self._reader = LogReader(self._state_dir, oldest[0].path.stat().st_mtime if oldest else 0.0)
        return self._reader
