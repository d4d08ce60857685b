"""An SQLite database of the state directory that outlives its process and power cuts: write-ahead log, each commit on
the disk before it returns (synchronous=FULL)."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dwcp.errors import StateError


def open_database(path: Path, schema: str, version: int, *, alone: bool) -> sqlite3.Connection:
    """Made where it is not there, with its directory; `schema`: statements, each ended by a semicolon. For any thread,
    one at a time, in autocommit mode.

    `alone`: no other process may use it meanwhile. Then there is no file of shared memory, which a full disk would not
    hold. Raises OSError, sqlite3.Error, or StateError for the database of a newer program.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    try:
        path.chmod(0o600)
        if alone:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        (found,) = db.execute("PRAGMA user_version").fetchone()
        if found > version:
            raise StateError(f"{path} is of version {found}, of a newer dwcp; run that one")
        if found == 0:
            with transaction(db):
                # another process may have made it meanwhile
                if db.execute("PRAGMA user_version").fetchone() == (0,):
                    for statement in schema.split(";"):
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {version}")
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        # a full disk has rolled it back already
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


class Database:
    """One that cannot be used is a StateError. Methods may be called from any thread."""

    def __init__(self, path: Path, schema: str, version: int, *, alone: bool, advice: str) -> None:
        """As `open_database`; `advice`: what to do where it cannot be used. Raises StateError."""
        self._path = path
        self._advice = advice
        self._lock = threading.Lock()
        try:
            self._db = open_database(path, schema, version, alone=alone)
        except OSError as error:
            raise StateError(f"cannot use {path}: {error}; make it writable for this user") from error
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    @contextmanager
    def using(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                raise self._unusable(error) from error

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """All or nothing."""
        with self.using() as db, transaction(db):
            yield db

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _unusable(self, error: sqlite3.Error) -> StateError:
        return StateError(f"cannot use {self._path}: {error}; {self._advice}")
