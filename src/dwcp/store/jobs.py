"""The queue of jobs: a database (`store.database`) in `jobs` in the state directory.

What was said to be queued is queued. A job that was running when its manager was killed waits again when the database
is opened.

    jobs          each job, until it has ended and `keep_ended` newer ones have too
    standings     of each workload and target: when it was last asked for, and the newest state that is there
    workloads     of each workload: since when it is known, whether it is paused

It is no part of a snapshot (`store.snapshots`): a queue of the past would repeat what has been done.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec

from dwcp.errors import NotFoundError, StateError, UsageError
from dwcp.policy.queueing import JobState
from dwcp.store.database import Database
from dwcp.store.job import Job, Known, NewJob, Outcome, Settings, Standing

DIRECTORY = "jobs"
FILE = "jobs.sqlite"
_VERSION = 1
_SCHEMA = """
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    workload TEXT NOT NULL,
    kind TEXT NOT NULL,
    peer TEXT NOT NULL,
    target TEXT NOT NULL,
    source TEXT NOT NULL,
    settings BLOB NOT NULL,
    priority INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    created_at REAL NOT NULL,
    not_before REAL NOT NULL,
    started_at REAL NOT NULL,
    ended_at REAL NOT NULL,
    reason TEXT NOT NULL,
    version TEXT NOT NULL,
    files INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    wire_bytes INTEGER NOT NULL
);
CREATE INDEX jobs_by_state ON jobs (state);
CREATE TABLE standings (
    workload TEXT NOT NULL,
    target TEXT NOT NULL,
    sent_at REAL NOT NULL,
    verified_at REAL NOT NULL,
    version TEXT NOT NULL,
    damaged INTEGER NOT NULL,
    PRIMARY KEY (workload, target)
);
CREATE TABLE workloads (
    name TEXT PRIMARY KEY,
    since REAL NOT NULL,
    asked_at REAL NOT NULL,
    verify_asked_at REAL NOT NULL,
    paused INTEGER NOT NULL
);
"""


_COLUMNS = ", ".join(field.name for field in fields(Job))


class JobStore:
    """Methods may be called from any thread; all raise StateError when the database cannot be used."""

    def __init__(self, state_dir: Path) -> None:
        """What was running waits again."""
        advice = "free space, or move it away to begin anew"
        self._db = Database(state_dir / DIRECTORY / FILE, _SCHEMA, _VERSION, alone=True, advice=advice)
        try:
            with self._db.changing() as db:
                db.execute(
                    "UPDATE jobs SET state = ?, reason = 'the manager was ended while it ran' WHERE state = ?",
                    (JobState.WAITING, JobState.RUNNING),
                )
        except StateError:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def add(self, jobs: Iterable[NewJob], now: float, *, at_once: bool = False) -> list[int]:
        """Ids. A job of a workload that waits already, or is parked, is taken instead of queued twice; `at_once`: also
        where it is in the pause before its next try."""
        ids = []
        with self._db.changing() as db:
            for job in jobs:
                found = self._unstarted(db, job) if job.workload else None
                if found is None:
                    ids.append(self._insert(db, job, now))
                    continue
                ids.append(found)
                db.execute(
                    "UPDATE jobs SET source = ?, settings = ?, priority = ? WHERE id = ?",
                    (job.source, msgspec.json.encode(job.settings), job.priority, found),
                )
                db.execute(
                    "UPDATE jobs SET state = ?, attempts = 0, not_before = 0 WHERE id = ? AND (state = ? OR ?)",
                    (JobState.WAITING, found, JobState.PARKED, at_once),
                )
        return ids

    def _unstarted(self, db: sqlite3.Connection, job: NewJob) -> int | None:
        row = db.execute(
            "SELECT id FROM jobs WHERE workload = ? AND kind = ? AND peer = ? AND target = ? AND state IN (?, ?)",
            (job.workload, job.kind, job.peer, job.target, JobState.WAITING, JobState.PARKED),
        ).fetchone()
        return int(row[0]) if row else None

    def _insert(self, db: sqlite3.Connection, job: NewJob, now: float) -> int:
        cursor = db.execute(
            "INSERT INTO jobs (workload, kind, peer, target, source, settings, priority, state, attempts, created_at,"
            " not_before, started_at, ended_at, reason, version, files, bytes, wire_bytes)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, ?, 0, 0, 0, '', '', 0, 0, 0)",
            (
                job.workload,
                job.kind,
                job.peer,
                job.target,
                job.source,
                msgspec.json.encode(job.settings),
                job.priority,
                JobState.WAITING,
                now,
            ),
        )
        return int(cursor.lastrowid or 0)

    def jobs(self, *states: JobState) -> list[Job]:
        """In these states, or all; oldest first."""
        wanted = states or tuple(JobState)
        marks = ", ".join("?" * len(wanted))
        with self._db.using() as db:
            rows = db.execute(f"SELECT {_COLUMNS} FROM jobs WHERE state IN ({marks}) ORDER BY id", wanted)  # noqa: S608
            return [_job(row) for row in rows]

    def unended(self, most: int) -> list[Job]:
        """So many of those that have not ended: running ones first, then parked ones, then those that wait, as they
        will go."""
        states = (JobState.RUNNING, JobState.PARKED, JobState.WAITING)
        order = "CASE state WHEN ? THEN 0 WHEN ? THEN 1 ELSE 2 END, priority DESC, id"
        query = f"SELECT {_COLUMNS} FROM jobs WHERE state IN (?, ?, ?) ORDER BY {order} LIMIT ?"  # noqa: S608
        with self._db.using() as db:
            return [_job(row) for row in db.execute(query, (*states, *states[:2], most))]

    def get(self, job_id: int) -> Job:
        """Raises NotFoundError."""
        with self._db.using() as db:
            row = db.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (job_id,)).fetchone()  # noqa: S608
        if row is None:
            raise NotFoundError(f"no job {job_id}; `dwcp jobs list` has those that are remembered")
        return _job(row)

    def counts(self) -> dict[JobState, int]:
        with self._db.using() as db:
            found = dict(db.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())
        return {state: int(found.get(state, 0)) for state in JobState}

    def start(self, job_id: int, now: float) -> None:
        """Why the try before failed stays to be read."""
        self._set(job_id, state=JobState.RUNNING, started_at=now)

    def finish(self, job: Job, outcome: Outcome, now: float) -> None:
        """Done; and where the workload stands with that, in the same commit."""
        with self._db.changing() as db:
            _update(
                db,
                job.id,
                state=JobState.DONE,
                ended_at=now,
                reason=outcome.note,
                version=outcome.version,
                files=outcome.files,
                bytes=outcome.bytes,
                wire_bytes=outcome.wire_bytes,
            )
            if job.workload:
                _stand(db, job, outcome, now)

    def wait(self, job_id: int, attempts: int, not_before: float, reason: str) -> None:
        self._set(job_id, state=JobState.WAITING, attempts=attempts, not_before=not_before, reason=reason)

    def park(self, job_id: int, attempts: int, reason: str) -> None:
        self._set(job_id, state=JobState.PARKED, attempts=attempts, reason=reason)

    def cancelled(self, job_id: int, now: float, reason: str) -> None:
        self._set(job_id, state=JobState.CANCELLED, ended_at=now, reason=reason)

    def retry(self, job_id: int) -> None:
        """A parked job, or one that waits for its next try, goes at once. Raises NotFoundError, UsageError."""
        job = self.get(job_id)
        if job.state not in (JobState.PARKED, JobState.WAITING, JobState.CANCELLED):
            raise UsageError(f"job {job_id} is {job.state}; only one that waits, is parked or cancelled can be retried")
        self._set(job_id, state=JobState.WAITING, attempts=0, not_before=0.0, ended_at=0.0)

    def forget_ended(self, keep: int) -> None:
        """All but the newest `keep` of the jobs that have ended."""
        with self._db.changing() as db:
            db.execute(
                "DELETE FROM jobs WHERE state IN (?, ?) AND id NOT IN"
                " (SELECT id FROM jobs WHERE state IN (?, ?) ORDER BY id DESC LIMIT ?)",
                (JobState.DONE, JobState.CANCELLED, JobState.DONE, JobState.CANCELLED, keep),
            )

    # -- workloads -----------------------------------------------------------------------------------------------------

    def follow(self, targets: Mapping[str, Collection[str]], now: float) -> None:
        """Makes the workloads known that are new; `targets` (PEER:EXPORT/PATH) by workload. What waits for targets and
        workloads that are gone is cancelled, and what the queue knew of them forgotten."""
        with self._db.changing() as db:
            known = {name for (name,) in db.execute("SELECT name FROM workloads")}
            for name in targets.keys() - known:
                db.execute("INSERT INTO workloads VALUES (?, ?, 0, 0, 0)", (name, now))
            for name in known - targets.keys():
                db.execute("DELETE FROM workloads WHERE name = ?", (name,))
            for name, target in db.execute("SELECT workload, target FROM standings").fetchall():
                if target not in targets.get(name, ()):
                    db.execute("DELETE FROM standings WHERE workload = ? AND target = ?", (name, target))
            unstarted = "SELECT id, workload, peer || ':' || target FROM jobs WHERE workload != '' AND state IN (?, ?)"
            for number, name, target in db.execute(unstarted, (JobState.WAITING, JobState.PARKED)).fetchall():
                if target not in targets.get(name, ()):
                    reason = "it is no target of the workload any more"
                    _update(db, number, state=JobState.CANCELLED, ended_at=now, reason=reason)

    def known(self) -> dict[str, Known]:
        with self._db.using() as db:
            rows = db.execute("SELECT name, since, asked_at, verify_asked_at, paused FROM workloads").fetchall()
        return {row[0]: Known(row[0], row[1], row[2], row[3], bool(row[4])) for row in rows}

    def asked(self, name: str, kind: str, now: float) -> None:
        """A run or a verification of the workload was asked for."""
        column = "verify_asked_at" if kind == "verify" else "asked_at"
        with self._db.changing() as db:
            db.execute(f"UPDATE workloads SET {column} = ? WHERE name = ?", (now, name))  # noqa: S608

    def pause(self, name: str, *, paused: bool) -> None:
        with self._db.changing() as db:
            db.execute("UPDATE workloads SET paused = ? WHERE name = ?", (paused, name))

    def standings(self) -> list[Standing]:
        with self._db.using() as db:
            rows = db.execute("SELECT workload, target, sent_at, verified_at, version, damaged FROM standings")
            return [Standing(*row) for row in rows]

    # -- the database --------------------------------------------------------------------------------------------------

    def _set(self, job_id: int, **values: str | int | float) -> None:
        with self._db.changing() as db:
            _update(db, job_id, **values)


def _update(db: sqlite3.Connection, job_id: int, **values: str | int | float) -> None:
    columns = ", ".join(f"{name} = ?" for name in values)
    db.execute(f"UPDATE jobs SET {columns} WHERE id = ?", (*values.values(), job_id))  # noqa: S608


def _stand(db: sqlite3.Connection, job: Job, outcome: Outcome, now: float) -> None:
    db.execute("INSERT OR IGNORE INTO standings VALUES (?, ?, 0, 0, '', 0)", (job.workload, job.place))
    where = (job.workload, job.place)
    if job.kind == "verify":
        db.execute(
            "UPDATE standings SET verified_at = ?, damaged = ? WHERE workload = ? AND target = ?",
            (now, outcome.damaged, *where),
        )
    else:
        # what changed after it began may be missing
        db.execute(
            "UPDATE standings SET sent_at = ?, version = ? WHERE workload = ? AND target = ?",
            (job.started_at, outcome.version, *where),
        )


def _job(row: tuple[Any, ...]) -> Job:
    values = dict(zip((field.name for field in fields(Job)), row, strict=True))
    values["state"] = JobState(str(values["state"]))
    values["settings"] = msgspec.json.decode(values["settings"], type=Settings)
    return Job(**values)
