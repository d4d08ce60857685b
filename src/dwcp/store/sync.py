"""What this node knows of others, and others of it (`dwcp.sync`): a database (`store.database`) in `sync` in the state
directory.

A node tells others that it has something only when a power cut cannot take that from it, because they forget tombstones
by it.

    entries    each key as it is
    clock      the newest stamp that this node gave out or has seen (`sync.clock`): entries that had it may be forgotten
    history    what keys of applications were before, newest KEPT of each, MAX_HISTORY bytes together

A file that is damaged is set aside, and the node begins anew: its peers have what it knew. For the same reason it is no
part of a snapshot, which would bring back what was deleted since.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from dwcp.errors import ProtocolError, StateError
from dwcp.store.database import open_database, transaction
from dwcp.sync.entry import APP, Entry, decode, encode

DIRECTORY = "sync"
FILE = "sync.sqlite"
ASIDE = "sync.sqlite.damaged"
KEPT = 32
"""States of a key in the history."""
MAX_HISTORY = 32 * 2**20
_VERSION = 1
_SCHEMA = """
CREATE TABLE entries (key TEXT PRIMARY KEY, content BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE history (id INTEGER PRIMARY KEY, key TEXT NOT NULL, seen_at REAL NOT NULL, content BLOB NOT NULL);
CREATE INDEX history_by_key ON history (key, id)
"""
_CLOCK = "CREATE TABLE IF NOT EXISTS clock (id INTEGER PRIMARY KEY CHECK (id = 0), stamp INTEGER NOT NULL)"
"""Databases of version 1 had none at first, and programs that do not know it can do without."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Past:
    """A state of a key, and when it came here: seconds since the epoch."""

    seen_at: float
    entry: Entry


class SyncStore:
    """Methods may be called from any thread; all raise StateError when the database cannot be used."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / DIRECTORY / FILE
        self._lock = threading.Lock()
        self._history_size = 0
        self.began_anew = False
        """What it held is lost: whoever knows it has to save it again."""
        try:
            try:
                self._db = self._open()
            except sqlite3.DatabaseError as error:
                if not _is_damaged(error):
                    raise
                self._set_aside(error)
                self._db = self._open()
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def load(self) -> list[Entry]:
        """All entries. One that cannot be read is left out: peers have it."""
        with self._using() as db:
            rows = db.execute("SELECT key, content FROM entries").fetchall()
        entries = []
        for key, content in rows:
            try:
                entries.append(decode(content))
            except ProtocolError as error:
                log.warning("an entry that was kept cannot be read", key=key, reason=str(error))
        return entries

    def clock(self) -> int:
        """As it was saved last; 0 where it never was."""
        with self._using() as db:
            (stamp,) = db.execute("SELECT coalesce(max(stamp), 0) FROM clock").fetchone()
        return int(stamp)

    def save(self, changes: Mapping[str, Entry | None], clock: int, now: float, *, history: bool) -> None:
        """All of it or nothing; None for what is forgotten. `now`: seconds since the epoch."""
        with self._using() as db, transaction(db):
            db.execute("INSERT OR REPLACE INTO clock VALUES (0, ?)", (clock,))
            for key, entry in changes.items():
                if entry is None:
                    db.execute("DELETE FROM entries WHERE key = ?", (key,))
                    continue
                content = encode(entry)
                db.execute("INSERT OR REPLACE INTO entries VALUES (?, ?)", (key, content))
                if history and key.startswith(f"{APP}/"):
                    self._remember(db, key, content, now)

    def history(self, key: str) -> list[Past]:
        """Newest first."""
        with self._using() as db:
            rows = db.execute("SELECT seen_at, content FROM history WHERE key = ? ORDER BY id DESC", (key,)).fetchall()
        return [Past(seen_at, decode(content)) for seen_at, content in rows]

    def _remember(self, db: sqlite3.Connection, key: str, content: bytes, now: float) -> None:
        newest = db.execute("SELECT content FROM history WHERE key = ? ORDER BY id DESC LIMIT 1", (key,)).fetchone()
        if newest is not None and newest[0] == content:
            # saved again after a failure
            return
        db.execute("INSERT INTO history (key, seen_at, content) VALUES (?, ?, ?)", (key, now, content))
        self._history_size += len(content)
        self._forget(db, "id IN (SELECT id FROM history WHERE key = ? ORDER BY id DESC LIMIT -1 OFFSET ?)", (key, KEPT))
        while self._history_size > MAX_HISTORY:
            # the oldest tenth, whosever it is
            self._forget(db, "id <= (SELECT min(id) + (max(id) - min(id)) / 10 FROM history)", ())

    def _forget(self, db: sqlite3.Connection, which: str, values: tuple[str | int, ...]) -> None:
        gone = db.execute(f"DELETE FROM history WHERE {which} RETURNING length(content)", values)  # noqa: S608
        self._history_size -= sum(size for (size,) in gone.fetchall())

    # -- the database --------------------------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        db = open_database(self._path, _SCHEMA, _VERSION, alone=False)
        try:
            # reads all pages once, so that damage is found now
            (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(f"damaged: {found}")
            db.execute(_CLOCK)
            (size,) = db.execute("SELECT coalesce(sum(length(content)), 0) FROM history").fetchone()
        except BaseException:
            db.close()
            raise
        self._history_size = size
        return db

    def _set_aside(self, error: sqlite3.Error) -> None:
        """Raises OSError."""
        log.error("what was known of other nodes is damaged and set aside", file=str(self._path), reason=str(error))
        self._path.replace(self._path.with_name(ASIDE))
        for suffix in ("-wal", "-shm"):
            self._path.with_name(FILE + suffix).unlink(missing_ok=True)
        self.began_anew = True

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                if _is_damaged(error):
                    self._begin_anew(error)
                raise self._unusable(error) from error

    def _begin_anew(self, error: sqlite3.Error) -> None:
        self._db.close()
        try:
            self._set_aside(error)
            self._db = self._open()
        except (OSError, sqlite3.Error) as other:
            raise self._unusable(other) from other

    def _unusable(self, error: OSError | sqlite3.Error) -> StateError:
        return StateError(f"cannot use {self._path}: {error}; free space, or make it writable for this user")


def _is_damaged(error: sqlite3.Error) -> bool:
    """It does not mend itself, as what raises OperationalError and others may."""
    return type(error) is sqlite3.DatabaseError
