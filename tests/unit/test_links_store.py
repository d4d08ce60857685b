"""Measurements and forecasts on disk."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from dwcp.forecast.forecaster import Forecast
from dwcp.store.links import DIRECTORY, FILE, LinkStore, Sample

FORECAST = Forecast(1000.0, 300.0, 5e6, 3e6, 8e6, 0.95, "ewma", 40, ("only 4 measurements",))


def sample(at: float, rate: float = 1e6, *, limited: bool = False) -> Sample:
    return Sample(at, 5.0, rate, limited, "transfer", 0.025, 0.001)


@pytest.fixture
def store(tmp_path: Path) -> LinkStore:
    return LinkStore(tmp_path)


def test_what_is_added_is_read_by_another_process_in_order(store: LinkStore, tmp_path: Path) -> None:
    for at in (30.0, 10.0, 20.0):
        store.add("b", sample(at))
    store.add("c", sample(15.0))
    assert LinkStore(tmp_path).samples("b", since=15.0) == [sample(20.0), sample(30.0)]
    assert [entry.at for entry in store.samples("b", 0.0, most=1)] == [30.0]


def test_nobody_else_may_read_it(store: LinkStore, tmp_path: Path) -> None:
    store.add("b", sample(1.0))
    assert (tmp_path / DIRECTORY / FILE).stat().st_mode & 0o777 == 0o600


def test_old_measurements_get_coarser_and_then_go(store: LinkStore) -> None:
    now, day = 1e6, 86400.0
    for index in range(int(2 * day / 60)):
        at = now - index * 60
        store.add("b", sample(at, rate=1e6 if at < now - day else 2e6))
    store.thin(now, window=1.5 * day)
    found = store.samples("b", 0.0)
    ages = [now - entry.at for entry in found]
    assert max(ages) <= 1.5 * day
    assert sum(age <= 3600 for age in ages) == 61
    assert 1380 <= sum(3600 < age <= day for age in ages) <= 1400
    assert 45 <= sum(age > day for age in ages) <= 60
    assert {entry.rate for entry in found if now - entry.at > day + 900} == {1e6}
    before = len(found)
    store.thin(now, window=1.5 * day)
    assert len(store.samples("b", 0.0)) == before


def test_a_lower_bound_does_not_pull_down_what_was_measured_beside_it(store: LinkStore) -> None:
    store.add("b", sample(100.0, 8e6))
    store.add("b", sample(105.0, 1e6, limited=True))
    store.add("b", sample(200.0, 1e6, limited=True))
    store.thin(10_000.0, window=1e5)
    assert [(entry.rate, entry.limited) for entry in store.samples("b", 0.0)] == [(8e6, False), (1e6, True)]


def test_measurements_from_the_future_go(store: LinkStore) -> None:
    store.add("b", sample(9e9))
    store.thin(1000.0, window=3600.0)
    assert store.samples("b", 0.0) == []


def test_a_forecast_counts_until_its_time_has_passed(store: LinkStore) -> None:
    store.foresee("b", FORECAST)
    assert store.foreseen("b", 1299.0) == FORECAST
    assert store.foreseen("b", 1300.0) is None
    assert store.foreseen("b", 999.0) is None
    assert store.foreseen("c", 1100.0) is None


def test_a_damaged_file_costs_the_measurements_and_nothing_else(store: LinkStore, tmp_path: Path) -> None:
    (tmp_path / DIRECTORY).mkdir()
    (tmp_path / DIRECTORY / FILE).write_bytes(b"no database" * 500)
    store.add("b", sample(1.0))
    assert "not a database" in store.failure
    # what does not mend itself is thrown away, and measured anew
    store.add("b", sample(1.0))
    assert store.failure == ""
    assert len(store.samples("b", 0.0)) == 1


def test_a_damaged_forecast_is_none(store: LinkStore, tmp_path: Path) -> None:
    store.foresee("b", FORECAST)
    for content in ("{", "[]", '{"doubts": 5}', '{"doubts": [], "more": 1}'):
        with sqlite3.connect(tmp_path / DIRECTORY / FILE) as database:
            database.execute("update forecasts set content = ?", (content,))
        database.close()
        assert store.foreseen("b", 1100.0) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_directory_that_cannot_be_written(store: LinkStore, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    store.add("b", sample(1.0))
    assert store.failure


def test_threads_and_processes_write_at_once(store: LinkStore, tmp_path: Path) -> None:
    other = LinkStore(tmp_path)

    def write(into: LinkStore, first: int) -> None:
        for at in range(first, first + 50):
            into.add("b", sample(float(at)))

    threads = [threading.Thread(target=write, args=(into, 50 * n)) for n, into in enumerate([store, other] * 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.samples("b", 0.0)) == 200
