"""Fencing tokens that this node has seen, and what its copies of workloads are: a database (`store.database`) in
`fences` in the state directory.

A token that was let in once keeps all lower ones out, through kill -9 and power cuts. It is no part of a snapshot: an
older one would let former owners in again.

    key        the cluster and the workload
    highest    token that was let in
    begun      token under which what is at `path` began to be changed
    complete   token under which it became what the owner had
    owned      token of this node's own newest ownership
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dwcp.errors import UsageError
from dwcp.store.database import Database

DIRECTORY = "fences"
FILE = "fences.sqlite"
MAX_FENCES = 10_000
"""Each is a row; whoever may write an export could make new ones for ever."""
_VERSION = 1
_SCHEMA = """CREATE TABLE fences (
    key TEXT PRIMARY KEY,
    highest INTEGER NOT NULL DEFAULT 0,
    begun INTEGER NOT NULL DEFAULT 0,
    complete INTEGER NOT NULL DEFAULT 0,
    owned INTEGER NOT NULL DEFAULT 0,
    path TEXT NOT NULL DEFAULT ''
)"""


@dataclass(frozen=True, slots=True)
class FenceRecord:
    """`path`: of the copy at this node that `begun` and `complete` are about; absolute."""

    key: str
    highest: int = 0
    begun: int = 0
    complete: int = 0
    owned: int = 0
    path: str = ""


class FenceStore:
    """Methods may be called from any thread; all raise StateError when the database cannot be used."""

    def __init__(self, state_dir: Path) -> None:
        advice = "free space, and start the manager again"
        self._db = Database(state_dir / DIRECTORY / FILE, _SCHEMA, _VERSION, alone=False, advice=advice)

    def close(self) -> None:
        self._db.close()

    def get(self, key: str) -> FenceRecord:
        """All zero for one that was never seen."""
        with self._db.using() as db:
            row = db.execute("SELECT * FROM fences WHERE key = ?", (key,)).fetchone()
        return FenceRecord(*row) if row else FenceRecord(key)

    def all(self) -> list[FenceRecord]:
        with self._db.using() as db:
            return [FenceRecord(*row) for row in db.execute("SELECT * FROM fences ORDER BY key")]

    def admit(self, key: str, token: int) -> int:
        """The highest token, this one included. Raises UsageError when there are too many keys."""
        with self._db.using() as db:
            (others,) = db.execute("SELECT count(*) FROM fences WHERE key != ?", (key,)).fetchone()
            if others >= MAX_FENCES:
                raise UsageError(f"{others} workloads are fenced here already; forget some (`dwcp cluster unfence`)")
            return int(
                db.execute(
                    "INSERT INTO fences (key, highest) VALUES (?, ?) ON CONFLICT (key)"
                    " DO UPDATE SET highest = max(highest, excluded.highest) RETURNING highest",
                    (key, token),
                ).fetchone()[0]
            )

    def begun(self, key: str, token: int, path: str) -> None:
        """What is at `path` is changed from now on."""
        with self._db.using() as db:
            db.execute(
                "UPDATE fences SET complete = CASE path WHEN ? THEN complete ELSE 0 END, begun = ?, path = ?"
                " WHERE key = ?",
                (path, token, path, key),
            )

    def completed(self, key: str, token: int, path: str) -> None:
        """What is at `path` is what the owner had."""
        with self._db.using() as db:
            db.execute("UPDATE fences SET begun = ?, complete = ?, path = ? WHERE key = ?", (token, token, path, key))

    def own(self, key: str, token: int) -> None:
        """This node is the owner, from now on; what it has is the state."""
        with self._db.using() as db:
            db.execute(
                "INSERT INTO fences (key, highest, owned) VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
                " owned = max(owned, excluded.owned), highest = max(highest, excluded.highest)",
                (key, token, token),
            )

    def forget(self, key: str) -> bool:
        """False where there was none."""
        with self._db.using() as db:
            return db.execute("DELETE FROM fences WHERE key = ?", (key,)).rowcount > 0
