"""The report: figures from records, and a page that says them."""

from __future__ import annotations

import datetime
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwcp.report.chart import Bar, _ceiling, bars
from dwcp.report.figures import HOURLY_UP_TO, MAX_BUCKETS, MAX_PEERS, OTHERS, collect
from dwcp.report.page import headline, page
from dwcp.store.records import Record, Value

END = datetime.datetime(2026, 3, 8, 12, 30, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)
WEEK = END - 7 * DAY


def record(kind: str, event: str, ago: float, peer: str = "", **detail: Value) -> Record:
    """`ago`: hours before the end."""
    return Record(1, END - datetime.timedelta(hours=ago), "run", kind, event, peer, detail)


def transfer(ago: float, peer: str = "b", state: str = "done", size: int = 1000, wire: int = 100) -> Record:
    detail: dict[str, Any] = {"state": state, "bytes": size, "wire_bytes": wire, "seconds": 2.0, "target": "inbox/x"}
    return record("transfer", "end", ago, peer, **detail)


def test_transfers_are_counted_by_outcome_peer_and_day() -> None:
    figures = collect([transfer(1), transfer(30, "c"), transfer(31, "c", "failed", 10, 5), transfer(200)], WEEK, END)
    assert (figures.total.transfers, figures.total.failed, figures.total.bytes) == (3, 1, 2010)
    assert figures.outcomes == {"done": 2, "failed": 1}
    assert figures.peers["c"].transfers == 2
    assert figures.total.saved == pytest.approx(1 - 205 / 2010)
    assert len(figures.buckets) == 8
    assert [traffic.transfers for traffic in figures.buckets.values()] == [0, 0, 0, 0, 0, 0, 2, 1]
    assert figures.records == 3


def test_two_days_are_told_by_the_hour() -> None:
    figures = collect([transfer(0.1)], END - datetime.timedelta(seconds=HOURLY_UP_TO), END)
    assert figures.step == datetime.timedelta(hours=1)
    assert list(figures.buckets.values())[-1].transfers == 1


def test_days_are_those_of_the_place() -> None:
    end = END.astimezone(datetime.timezone(datetime.timedelta(hours=14)))
    figures = collect([transfer(1)], end - 7 * DAY, end)
    assert [begin.day for begin, traffic in figures.buckets.items() if traffic.transfers] == [9]


def test_what_a_component_went_through() -> None:
    story = [
        record("component", "health", 5, component="transport", now="unhealthy", was="healthy", reason="port"),
        record("component", "restart", 4.9, component="transport"),
        record("component", "recovered", 4, component="transport"),
        record("component", "health", 4, component="transport", now="healthy", was="unhealthy"),
        record("component", "health", 2, component="state", now="unhealthy", was="healthy"),
        record("component", "failed", 1, component="state", reason="disk"),
    ]
    figures = collect(story, WEEK, END)
    transport, state = figures.components["transport"], figures.components["state"]
    assert (transport.restarts, transport.recovered, transport.down_seconds) == (1, 1, 3600)
    assert (state.failed, state.down_seconds) == (1, 7200)


def test_trips_kills_and_faults() -> None:
    story = [
        record("node", "start", 9, run_before="killed"),
        record("node", "start", 8, run_before="stopped"),
        record("breaker", "open", 7, "b", reason="refused"),
        record("breaker", "closed", 6, "b"),
        transfer(5, state="lost"),
        transfer(4, state="cancelled"),
    ]
    figures = collect(story, WEEK, END)
    assert (figures.starts, figures.kills, figures.trips) == (2, 1, {"b": 1})
    assert [(fault.kind, fault.event) for fault in figures.faults] == [("breaker", "open"), ("transfer", "end")]
    assert figures.total.failed == 1


def test_memory_does_not_grow_with_peers_nor_with_the_period() -> None:
    figures = collect([transfer(1, f"peer{number}") for number in range(MAX_PEERS + 50)], END - 5000 * DAY, END)
    assert len(figures.peers) == MAX_PEERS + 1
    assert figures.peers[OTHERS].transfers == 50
    assert len(figures.buckets) == MAX_BUCKETS


def test_the_headline_says_what_matters() -> None:
    assert headline(collect([], WEEK, END)) == "Nothing was recorded."
    assert headline(collect([record("node", "start", 1)], WEEK, END)) == "No transfer ended."
    assert "90% less" in headline(collect([transfer(1)], WEEK, END))
    assert "every transfer arrived" in headline(collect([transfer(1)], WEEK, END))
    assert "1 of 2 transfers failed" in headline(collect([transfer(1), transfer(2, state="failed")], WEEK, END))


class _Tags(HTMLParser):
    """Fails where tags are not closed in the order in which they were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in ("meta", "rect", "line", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@given(st.text(max_size=20), st.text(max_size=20))
def test_names_of_peers_and_files_cannot_write_the_page(peer: str, target: str) -> None:
    evil = f"</title><script>alert(1)</script>{peer}"
    failed = transfer(1, evil, "failed")
    failed.detail["target"] = f"<img src=x onerror=alert(1)>{target}"
    content = page(evil, collect([failed, record("breaker", "open", 2, evil)], WEEK, END))
    tags = _Tags()
    tags.feed(content)
    tags.close()
    assert tags.open == []
    assert not {"script", "img"} & set(tags.seen)
    assert content.count("<title>") - content.count("<g><title>") == 1


def test_a_quiet_period_has_no_empty_tables() -> None:
    assert "<table" not in page("n", collect([], WEEK, END))
    content = page("n", collect([transfer(1), transfer(2, state="failed")], WEEK, END))
    assert "By peer" in content
    assert "Recoveries" not in content
    assert "inbox/x" in content
    assert "http" not in content


# -- plots -------------------------------------------------------------------------------------------------------------

counts = st.integers(0, 2**62)


@given(st.lists(st.builds(Bar, st.text(max_size=9), counts, counts, st.integers(0, 5)), max_size=60))
def test_bars_stay_within_the_plot(values: list[Bar]) -> None:
    for label in (bar.label for bar in values):
        if any(ord(char) < 32 or 0xD800 <= ord(char) < 0xE000 or ord(char) in (0xFFFE, 0xFFFF) for char in label):
            return
    picture = ET.fromstring(bars(values))
    columns = picture.findall(".//rect")
    assert len(columns) == sum(bool(bar.content) + bool(bar.wire) for bar in values)
    for column in columns:
        assert float(column.attrib["y"]) >= 0
        assert float(column.attrib["height"]) >= 0


@given(st.integers(0, 2**62))
def test_the_axis_ends_above_and_not_far_above_the_highest_bar(most: int) -> None:
    assert most <= _ceiling(most) <= max(1, 2.6 * most)
