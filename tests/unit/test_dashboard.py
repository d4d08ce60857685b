"""The dashboard's parts: rates and history, the document, what is kept of the log, the built page."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from dwcp.dashboard import assets, log_tail
from dwcp.dashboard.document import significant, transfer_entry
from dwcp.dashboard.log_tail import LogTail
from dwcp.dashboard.rates import INTERVAL, SAMPLES, History, TransferRates
from dwcp.dashboard.workloads import jobs
from dwcp.forecast.eta import Rates
from dwcp.policy.queueing import JobState
from dwcp.store.job import Job, Settings
from dwcp.store.txlog import TransactionLog
from dwcp.transfer.board import Role, State, TransferStatus
from dwcp.workloads.coordinator import WorkloadStatus

ROOT = Path(__file__).parent.parent.parent
MEGABIT = 125_000
RUNNING = TransferStatus("t", Role.SEND, "b", "inbox/x", started_at=1.0, bytes_total=100 * MEGABIT)


# -- rates -------------------------------------------------------------------------------------------------------------


def test_a_rate_follows_what_is_on_the_wire_and_the_range_narrows_when_it_is_steady() -> None:
    rates, done, seen = TransferRates(), 0, []
    for second in range(1, 31):
        done += 10 * MEGABIT
        seen.append(rates.update([replace(RUNNING, seconds=float(second), wire_bytes=done)], 10.0 + second)["t"])
    assert [entry.rate for entry in seen] == sorted(entry.rate for entry in seen)
    assert seen[-1].rate == pytest.approx(1e7, rel=0.01)
    assert seen[0].high - seen[0].low > 2 * seen[0].rate
    assert all(0 < entry.low < entry.rate < entry.high for entry in seen)
    assert seen[-1].high - seen[-1].low < 0.1 * seen[-1].rate
    # a second look at the same moment changes nothing
    assert rates.update([replace(RUNNING, seconds=30.0, wire_bytes=done)], 40.0)["t"] == seen[-1]


def test_what_a_paced_transfer_may_send_at_once_is_not_taken_for_its_rate() -> None:
    rates = TransferRates()
    # 32 windows on loopback before pacing begins, then 16 Mbit/s
    for second in range(10):
        age = 0.05 + second
        status = replace(RUNNING, seconds=age, wire_bytes=int(7.5e6 + 16 * MEGABIT * age))
        told = rates.update([status], 10.0 + age)["t"]
        assert 15e6 < told.rate < 21e6
        assert told.low < 16e6 < told.high


def test_a_transfer_that_nobody_looked_at_before_has_its_average() -> None:
    rates = TransferRates()
    assert rates.update([replace(RUNNING, seconds=60.0, wire_bytes=60 * MEGABIT)], 100.0)["t"].rate == pytest.approx(
        1e6
    )
    assert rates.update([], 101.0) == {}
    assert rates.update([replace(RUNNING, wire_bytes=MEGABIT)], 102.0)["t"].rate == 0


def test_history_counts_what_was_carried_with_each_peer() -> None:
    history = History()
    other = replace(RUNNING, id="u", peer="c", role=Role.RECEIVE)
    assert history.sample(0.0, 100.0, 0, 0, [replace(RUNNING, wire_bytes=50)]) is None
    sample = history.sample(
        INTERVAL, 105.0, 5 * MEGABIT, 10 * MEGABIT, [replace(RUNNING, wire_bytes=50 + 5 * MEGABIT), other]
    )
    assert sample is not None
    assert (sample.time, sample.sent, sample.received, sample.peers) == (105.0, 1e6, 2e6, {"b": 1e6})
    # one that began and ended between two samples counts too; one that is taken up again is a new one
    again = replace(RUNNING, started_at=2.0, wire_bytes=5 * MEGABIT, state=State.DONE)
    sample = history.sample(2 * INTERVAL, 110.0, 0, 0, [replace(RUNNING, wire_bytes=50 + 5 * MEGABIT), again])
    assert sample is not None
    assert sample.peers == {"b": 1e6}


def test_history_is_bounded() -> None:
    history = History()
    for number in range(SAMPLES + 10):
        history.sample(float(number + 1), float(number), 0, 0, [])
    assert len(history.samples) == SAMPLES


# -- the document ------------------------------------------------------------------------------------------------------


def test_a_running_transfer_says_how_long_it_will_take() -> None:
    half = replace(RUNNING, seconds=10.0, bytes_done=55 * MEGABIT, wire_bytes=60 * MEGABIT, streams=4)
    entry = transfer_entry(half, Rates(3e6, 4.567e6, 9e6))
    assert (entry["eta_seconds"], entry["eta_range_seconds"]) == (8, [5, 15])
    foreseen = transfer_entry(replace(half, foreseen=Rates(1e6, 2e6, 4.5e6)), Rates(3e6, 4.567e6, 9e6))
    assert (foreseen["eta_seconds"], foreseen["eta_range_seconds"]) == (8, [8, 45])
    # what deltas save of the content they save of the time
    saved = transfer_entry(replace(half, wire_bytes=11 * MEGABIT), Rates(3e6, 4.567e6, 9e6))
    assert saved["eta_range_seconds"] == [1, 8]
    paused = transfer_entry(replace(half, paused=True), Rates(3e6, 4.567e6, 9e6))
    assert paused["paused"]
    assert "eta_seconds" not in paused
    assert (entry["streams"], entry["wire_bits_per_second"]) == (4, 4_570_000)
    assert "error" not in entry
    assert "eta_seconds" not in transfer_entry(RUNNING)


def test_an_ended_transfer_says_how_long_it_took_and_why_it_failed() -> None:
    entry = transfer_entry(replace(RUNNING, state=State.FAILED, seconds=3.21, error="no space"))
    assert (entry["state"], entry["seconds"], entry["error"]) == ("failed", 3.2, "no space")
    assert "streams" not in entry


def test_numbers_are_told_with_as_many_digits_as_people_read() -> None:
    assert [significant(number) for number in (0.0, 0.0347, 12.34, 1234.5, 99.9)] == [0, 0.035, 12, 1200, 100]
    assert significant(123456789.0, 3) == 123_000_000


def test_a_job_says_what_it_waits_for() -> None:
    waiting = Job(
        id=7,
        workload="",
        kind="send",
        peer="b",
        target="inbox/x",
        source="/srv/x",
        settings=Settings(),
        priority=5,
        state=JobState.WAITING,
        attempts=2,
        created_at=1.0,
        not_before=60.4,
        started_at=30.0,
        ended_at=0.0,
        reason="no",
        version="",
        files=0,
        bytes=0,
        wire_bytes=0,
    )
    running = replace(waiting, id=8, workload="db", state=JobState.RUNNING, attempts=0, reason="")
    counts = dict.fromkeys(JobState, 0) | {JobState.WAITING: 12_000, JobState.RUNNING: 1}
    told = jobs(WorkloadStatus(counts=counts, jobs=[running, waiting]))
    assert told["counts"] == {"running": 1, "waiting": 12_000, "parked": 0}
    common = {"kind": "send", "source": "/srv/x", "target": "b:inbox/x", "priority": 5}
    assert told["first"] == {
        "8": {**common, "workload": "db", "state": "running", "started_at": 30},
        "7": {**common, "state": "waiting", "attempts": 2, "reason": "no", "not_before": 60},
    }
    assert jobs(WorkloadStatus()) == {}


# -- the log -----------------------------------------------------------------------------------------------------------


def test_a_busy_hour_of_transfers_does_not_push_out_what_components_did(tmp_path: Path) -> None:
    log, tail = TransactionLog(tmp_path, 64 * 2**20), LogTail(tmp_path)
    log.append("component", "health", detail={"component": "transport", "now": "degraded"})
    for number in range(log_tail.KEPT + 50):
        log.append("transfer", "begin", peer="b", detail={"id": str(number)})
    first = tail.poll()
    tail.keep(first)
    assert first == tail.newest()
    assert len(first) == log_tail.KEPT + 1
    assert (first[0]["kind"], first[0]["detail"]["component"]) == ("component", "transport")
    assert first[-1]["detail"]["id"] == str(log_tail.KEPT + 49)
    assert tail.poll() == []
    log.append("breaker", "open", peer="b")
    fresh = tail.poll()
    assert [record["event"] for record in fresh] == ["open"]
    tail.keep(fresh)
    assert len(tail.newest()) == log_tail.KEPT + 2
    assert [record["seq"] for record in tail.newest()] == sorted(record["seq"] for record in tail.newest())


def test_only_the_newest_files_of_a_large_log_are_read(tmp_path: Path) -> None:
    log = TransactionLog(tmp_path, 80_000)
    for number in range(1000):
        log.append("transfer", "begin", detail={"id": str(number), "target": "x" * 100})
    tail = LogTail(tmp_path)
    assert tail.poll()[-1]["detail"]["id"] == "999"


def test_a_state_directory_without_a_log_shows_nothing(tmp_path: Path) -> None:
    tail = LogTail(tmp_path)
    assert tail.poll() == []
    TransactionLog(tmp_path, 2**20).append("node", "start")
    assert [record["kind"] for record in tail.poll()] == ["node"]


# -- the page ----------------------------------------------------------------------------------------------------------


def test_the_whole_page_is_small() -> None:
    found = assets.load()
    assert {"/", "/dashboard/app.js", "/dashboard/app.css", "/dashboard/healthy.svg"} <= found.keys()
    assert sum(len(asset.content) for asset in found.values()) < 200_000


def test_nothing_in_the_page_is_inline_or_from_elsewhere() -> None:
    page = assets.load()["/"].content.decode()
    assert "style=" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<script>" not in page
    assert " on" not in page.partition("<body")[2].partition(">")[0]


def test_the_built_page_is_that_of_the_sources() -> None:
    sources = [*sorted((ROOT / "dashboard" / "src").iterdir()), ROOT / "dashboard" / "package-lock.json"]
    digest = hashlib.sha256()
    for path in sources:
        digest.update(
            f"{path.relative_to(ROOT / 'dashboard')} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    built = (ROOT / "src" / "dwcp" / "dashboard" / "assets" / "sources.sha256").read_text().strip()
    assert built == digest.hexdigest(), "run `make dashboard-assets`"
