"""Counts what the records of a period say. Pure: records in, figures out; memory does not grow with the records."""

from __future__ import annotations

import datetime
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from dwcp.store.records import Record

HOURLY_UP_TO = 49 * 3600.0
"""Seconds: two days are told by the hour, longer periods by the day."""
MAX_BUCKETS = 400
"""A year by the day. Of a longer period, the newest."""
MAX_PEERS = 100
OTHERS = "(others)"
KEPT_FAULTS = 50
"""Lines, the newest."""
FAULTS = {
    ("component", "failed"),
    ("component", "restart-failed"),
    ("breaker", "open"),
    ("config", "refused"),
    ("snapshot", "failed"),
    ("log", "cut"),
}


@dataclass(slots=True)
class Traffic:
    """Of transfers that ended. `bytes` counts content that was settled, `wire_bytes` what that took on the network."""

    transfers: int = 0
    failed: int = 0
    """Those that failed or were lost; one that somebody cancelled is none."""
    bytes: int = 0
    wire_bytes: int = 0
    seconds: float = 0.0

    def add(self, record: Record) -> None:
        detail = record.detail
        self.transfers += 1
        self.failed += detail.get("state") in ("failed", "lost")
        self.bytes += _number(detail.get("bytes"))
        self.wire_bytes += _number(detail.get("wire_bytes"))
        seconds = detail.get("seconds")
        self.seconds += float(seconds) if isinstance(seconds, int | float) else 0.0

    @property
    def saved(self) -> float:
        """Share of the content that did not have to go over the wire; 0 where overhead ate it up."""
        return max(0.0, 1 - self.wire_bytes / self.bytes) if self.bytes else 0.0


@dataclass(slots=True)
class Recovery:
    """Of one component."""

    restarts: int = 0
    recovered: int = 0
    failed: int = 0
    down_seconds: float = 0.0
    """From the check that found it unhealthy to the one that found it well, or to the end of the period."""


@dataclass(slots=True)
class Figures:
    begin: datetime.datetime
    end: datetime.datetime
    step: datetime.timedelta
    """Length of a bucket."""
    buckets: dict[datetime.datetime, Traffic]
    """By their beginning, every one of the period."""
    total: Traffic = field(default_factory=Traffic)
    outcomes: Counter[str] = field(default_factory=Counter)
    peers: dict[str, Traffic] = field(default_factory=dict)
    components: dict[str, Recovery] = field(default_factory=dict)
    trips: Counter[str] = field(default_factory=Counter)
    """Of circuit breakers, by peer."""
    starts: int = 0
    """Of the manager."""
    kills: int = 0
    """Starts that found that the run before had not been stopped."""
    faults: deque[Record] = field(default_factory=lambda: deque(maxlen=KEPT_FAULTS))
    records: int = 0
    damaged: int = 0
    """Places where the log cannot be read; whoever reads it counts them."""


def collect(records: Iterable[Record], begin: datetime.datetime, end: datetime.datetime) -> Figures:
    """`begin` and `end` with a time zone, in which days and hours are counted."""
    begin = begin.astimezone(end.tzinfo)
    hourly = (end - begin).total_seconds() <= HOURLY_UP_TO
    step = datetime.timedelta(hours=1) if hourly else datetime.timedelta(days=1)
    first, last = _floor(begin, hourly=hourly), _floor(end, hourly=hourly)
    count = min(MAX_BUCKETS, int((last - first) / step) + 1)
    figures = Figures(begin, end, step, {last - number * step: Traffic() for number in reversed(range(count))})
    unhealthy: dict[str, datetime.datetime] = {}
    for record in records:
        if begin <= record.time <= end:
            figures.records += 1
            _count(figures, record, unhealthy, hourly=hourly)
    for component, since in unhealthy.items():
        figures.components.setdefault(component, Recovery()).down_seconds += (end - since).total_seconds()
    return figures


def _count(figures: Figures, record: Record, unhealthy: dict[str, datetime.datetime], *, hourly: bool) -> None:
    match record.kind, record.event:
        case "transfer", "end":
            _transfer(figures, record, hourly=hourly)
        case "component", _:
            _component(figures, record, unhealthy)
        case "breaker", "open":
            figures.trips[record.peer] += 1
        case "node", "start":
            figures.starts += 1
            figures.kills += record.detail.get("run_before") == "killed"
    state = record.detail.get("state")
    if (record.kind, record.event) in FAULTS or (record.kind == "transfer" and state in ("failed", "lost")):
        figures.faults.append(record)


def _transfer(figures: Figures, record: Record, *, hourly: bool) -> None:
    figures.total.add(record)
    figures.outcomes[str(record.detail.get("state", ""))] += 1
    peer = record.peer if record.peer in figures.peers or len(figures.peers) < MAX_PEERS else OTHERS
    figures.peers.setdefault(peer, Traffic()).add(record)
    bucket = figures.buckets.get(_floor(record.time.astimezone(figures.end.tzinfo), hourly=hourly))
    if bucket is not None:
        bucket.add(record)


def _component(figures: Figures, record: Record, unhealthy: dict[str, datetime.datetime]) -> None:
    name = str(record.detail.get("component", ""))
    recovery = figures.components.setdefault(name, Recovery())
    match record.event:
        case "restart":
            recovery.restarts += 1
        case "recovered":
            recovery.recovered += 1
        case "failed":
            recovery.failed += 1
        case "health" if record.detail.get("now") == "unhealthy":
            unhealthy.setdefault(name, record.time)
        case "health":
            since = unhealthy.pop(name, record.time)
            recovery.down_seconds += (record.time - since).total_seconds()


def _floor(time: datetime.datetime, *, hourly: bool) -> datetime.datetime:
    whole = time.replace(minute=0, second=0, microsecond=0)
    return whole if hourly else whole.replace(hour=0)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
