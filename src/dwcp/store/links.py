"""What was measured of each link, and what is foreseen of it: one SQLite file in the state directory.

A manager and the commands beside it write and read it at the same time (WAL). It is no part of a node's state: without
it, what it held is measured anew, so whatever goes wrong with it is logged and costs nothing else.

Measurements get coarser with age (THINNING), so that a month of them is some thousand rows a peer.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import structlog

from dwcp.forecast.forecaster import Forecast
from dwcp.forecast.history import Measurement

DIRECTORY = "links"
FILE = "links.sqlite"
PATIENCE = 2.0
"""Seconds that a write waits for another process's."""
THINNING = ((3600.0, 60.0), (86400.0, 900.0))
"""(age, width) in seconds: older ones are means over as much. An hour as it was measured is what models look at."""
MOST_ROWS = 20_000
"""Read for one peer at once: 30 days and what has not been thinned yet."""
_SCHEMA = """
create table if not exists samples (
    peer text not null, at real not null, width real not null, rate real not null, limited integer not null,
    round_trip real, loss real, source text not null);
create index if not exists samples_by_peer on samples (peer, at);
create table if not exists forecasts (peer text primary key, made_at real not null, content text not null);
"""
_COARSE = """
create temporary table coarse as
select peer, max(at), :width, avg(rate), limited, avg(round_trip), avg(loss), max(source)
from samples as own
where at < :before and width < :width and limited = (
    select min(limited) from samples as other
    where other.peer = own.peer and other.at < :before and other.width < :width
    and cast(other.at / :width as integer) = cast(own.at / :width as integer))
group by peer, cast(at / :width as integer)
"""
"""Where something was measured in a stretch, the lower bounds in it say nothing."""

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Sample:
    """One stretch of `width` seconds that ended at `at` (of the clock that `time.time` reads).

    `rate` in bits per second of what the other end confirmed, `round_trip` in seconds, `loss` as a share of the bytes.
    """

    at: float
    width: float
    rate: float
    limited: bool
    source: str
    """`transfer` or `probe`."""
    round_trip: float | None = None
    loss: float | None = None

    @property
    def measurement(self) -> Measurement:
        return Measurement(self.at, self.rate, self.limited)


class LinkStore:
    """All methods may be called from any thread, and none raises for what happens to the file."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / DIRECTORY / FILE
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self.failure = ""
        """Why the last access failed; empty when it did not."""

    def add(self, peer: str, sample: Sample) -> None:
        row = (
            peer,
            sample.at,
            sample.width,
            sample.rate,
            sample.limited,
            sample.round_trip,
            sample.loss,
            sample.source,
        )
        self._use(lambda database: database.execute("insert into samples values (?, ?, ?, ?, ?, ?, ?, ?)", row))

    def samples(self, peer: str, since: float, most: int = MOST_ROWS) -> list[Sample]:
        """Those at `since` or later, the newest `most` of them, oldest first."""
        query = (
            "select at, width, rate, limited, source, round_trip, loss from samples"
            " where peer = ? and at >= ? order by at desc limit ?"
        )
        rows = self._use(lambda database: database.execute(query, (peer, since, most)).fetchall()) or []
        return [Sample(at, width, rate, bool(limited), *others) for at, width, rate, limited, *others in reversed(rows)]

    def thin(self, now: float, window: float) -> None:
        """Forgets what is older than `window` seconds or dated after `now`, and makes coarser what THINNING says."""

        def act(database: sqlite3.Connection) -> None:
            database.execute("delete from samples where at < ? or at > ?", (now - window, now + window))
            for age, width in THINNING:
                stretch = {"before": now - age, "width": width}
                database.execute(_COARSE, stretch)
                database.execute("delete from samples where at < :before and width < :width", stretch)
                database.execute("insert into samples select * from coarse")
                database.execute("drop table coarse")

        self._use(act)

    def foresee(self, peer: str, forecast: Forecast) -> None:
        """Replaces what was foreseen of the link before."""
        row = (peer, forecast.made_at, json.dumps(asdict(forecast)))
        self._use(lambda database: database.execute("insert or replace into forecasts values (?, ?, ?)", row))

    def foreseen(self, peer: str, now: float) -> Forecast | None:
        """The newest forecast, while its time has not passed."""
        query = "select content from forecasts where peer = ?"
        row = self._use(lambda database: database.execute(query, (peer,)).fetchone())
        if row is None:
            return None
        try:
            fields = json.loads(row[0])
            forecast = Forecast(**{**fields, "doubts": tuple(fields["doubts"])})
        except (ValueError, TypeError, KeyError) as error:
            log.info("a forecast cannot be read", peer=peer, reason=str(error))
            return None
        return forecast if forecast.made_at <= now < forecast.made_at + forecast.horizon else None

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    def _use(self, act: Callable[[sqlite3.Connection], T]) -> T | None:
        """One transaction; None where the file cannot be used."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = _connect(self._path)
                with self._connection:
                    done = act(self._connection)
                self.failure = ""
                return done
            except (sqlite3.Error, OSError) as error:
                self._failed(error)
                return None

    def _failed(self, error: sqlite3.Error | OSError) -> None:
        reason = str(error) or type(error).__name__
        if reason != self.failure:
            log.warning("measurements of links cannot be kept", file=str(self._path), reason=reason)
        self.failure = reason
        self._disconnect()
        if type(error) is sqlite3.DatabaseError:
            # damaged, which does not mend itself; OperationalError and others pass
            with contextlib.suppress(OSError):
                for name in (FILE, f"{FILE}-wal", f"{FILE}-shm"):
                    self._path.with_name(name).unlink(missing_ok=True)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=PATIENCE, check_same_thread=False)
    try:
        path.chmod(0o600)
        connection.execute("pragma journal_mode = wal")
        # what a power cut takes is measured anew
        connection.execute("pragma synchronous = off")
        connection.executescript(_SCHEMA)
    except (sqlite3.Error, OSError):
        connection.close()
        raise
    return connection
