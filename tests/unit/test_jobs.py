"""The queue of jobs on disk."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from dwcp.errors import NotFoundError, StateError, UsageError
from dwcp.policy.queueing import JobState
from dwcp.store.job import NewJob, Outcome, Settings
from dwcp.store.jobs import JobStore
from dwcp.store.snapshots import is_state


def job(workload: str = "db", target: str = "inbox/db", kind: str = "send", **settings: object) -> NewJob:
    return NewJob(workload, kind, "b", target, "/srv/db", Settings(**settings), 5)  # type: ignore[arg-type]


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path)


def test_what_was_queued_is_there_after_a_new_start(store: JobStore, tmp_path: Path) -> None:
    store.follow({"db": ["b:inbox/db", "b:inbox/two"]}, 1.0)
    first, second, third = store.add([job(), job(target="inbox/two"), job("", keep="last 3", before=["a", "b"])], 2.0)
    store.start(first, 3.0)
    store.park(second, 4, "no")
    # as kill -9 leaves it: nothing is closed
    shutil.copytree(tmp_path / "jobs", tmp_path / "left" / "jobs")
    again = JobStore(tmp_path / "left")
    assert again.get(first).state is JobState.WAITING
    assert "ended while it ran" in again.get(first).reason
    assert (again.get(second).state, again.get(second).attempts, again.get(second).reason) == (JobState.PARKED, 4, "no")
    assert again.get(third).settings == Settings(keep="last 3", before=["a", "b"])
    assert again.known()["db"].since == 1.0


def test_a_workload_has_one_job_waiting_for_a_target(store: JobStore) -> None:
    (first,) = store.add([job()], 1.0)
    assert store.add([job(keep="all")], 2.0) == [first]
    assert store.get(first).settings.keep == "all"
    store.start(first, 3.0)
    # what changes while it runs is for another one
    (second,) = store.add([job()], 4.0)
    assert second != first
    assert store.add([job(kind="verify"), job(target="inbox/two")], 5.0) != [second, second]
    # those of nobody are never the same
    assert len(set(store.add([job(""), job("")], 6.0))) == 2


def test_a_parked_job_is_set_going_by_the_next_run(store: JobStore) -> None:
    (first,) = store.add([job()], 1.0)
    store.park(first, 9, "refused")
    assert store.add([job()], 2.0) == [first]
    assert (store.get(first).state, store.get(first).attempts) == (JobState.WAITING, 0)


def test_a_pause_is_kept_by_a_schedule_and_ended_by_a_person(store: JobStore) -> None:
    (first,) = store.add([job()], 1.0)
    store.wait(first, 3, 100.0, "unreachable")
    store.add([job()], 2.0)
    assert (store.get(first).not_before, store.get(first).attempts) == (100.0, 3)
    store.add([job()], 2.0, at_once=True)
    assert (store.get(first).not_before, store.get(first).attempts) == (0.0, 0)


def test_where_a_workload_stands_is_noted_with_the_job(store: JobStore) -> None:
    store.follow({"db": ["b:inbox/db"]}, 0.0)
    (first,) = store.add([job()], 1.0)
    store.start(first, 2.0)
    store.finish(store.get(first), Outcome("v1", 3, 400, 100), 5.0)
    done = store.get(first)
    assert (done.state, done.version, done.files, done.bytes, done.wire_bytes) == (JobState.DONE, "v1", 3, 400, 100)
    (standing,) = store.standings()
    # what changed after it began may be missing
    assert (standing.target, standing.sent_at, standing.version) == ("b:inbox/db", 2.0, "v1")
    (check,) = store.add([job(kind="verify")], 6.0)
    store.start(check, 7.0)
    store.finish(store.get(check), Outcome(damaged=2, note="two"), 8.0)
    (standing,) = store.standings()
    assert (standing.sent_at, standing.verified_at, standing.damaged) == (2.0, 8.0, 2)
    assert store.get(check).reason == "two"


def test_workloads_and_targets_that_are_gone_are_forgotten(store: JobStore) -> None:
    store.follow({"db": ["b:inbox/db", "b:x"], "www": ["b:inbox/db", "b:y"]}, 0.0)
    first, second, third, fourth, alone = store.add(
        [job(), job(target="x"), job("www"), job("www", target="y"), job("")], 1.0
    )
    store.start(first, 2.0)
    store.finish(store.get(first), Outcome(), 3.0)
    store.follow({"www": ["b:y"]}, 4.0)
    assert [store.get(number).state for number in (second, third, fourth, alone)] == [
        *(JobState.CANCELLED, JobState.CANCELLED),
        *(JobState.WAITING, JobState.WAITING),
    ]
    assert store.standings() == []
    assert list(store.known()) == ["www"]


def test_only_the_newest_ended_jobs_are_remembered(store: JobStore) -> None:
    ids = store.add([job("") for _ in range(6)], 1.0)
    for number in ids[:5]:
        store.cancelled(number, 2.0, "")
    store.forget_ended(2)
    assert [found.id for found in store.jobs()] == ids[3:]
    assert store.counts()[JobState.WAITING] == 1
    with pytest.raises(NotFoundError, match="no job 1"):
        store.get(ids[0])


def test_what_has_not_ended_is_told_from_the_most_telling_on(store: JobStore) -> None:
    waiting, parked, running, done, urgent = store.add(
        [job("") for _ in range(4)] + [replace(job(""), priority=9)], 1.0
    )
    store.start(running, 2.0)
    store.park(parked, 1, "no")
    store.finish(store.get(done), Outcome(), 3.0)
    assert [found.id for found in store.unended(10)] == [running, parked, urgent, waiting]
    assert [found.id for found in store.unended(2)] == [running, parked]


def test_what_is_done_is_not_retried(store: JobStore) -> None:
    (first,) = store.add([job()], 1.0)
    store.start(first, 1.0)
    with pytest.raises(UsageError, match="is running"):
        store.retry(first)
    store.cancelled(first, 2.0, "cancelled")
    store.retry(first)
    assert store.get(first).state is JobState.WAITING


def test_a_queue_of_a_newer_version_is_left_alone(store: JobStore, tmp_path: Path) -> None:
    store.close()
    with sqlite3.connect(tmp_path / "jobs" / "jobs.sqlite") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StateError, match="newer dwcp"):
        JobStore(tmp_path)


def test_a_damaged_queue_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "jobs.sqlite").write_bytes(b"nonsense" * 1000)
    with pytest.raises(StateError, match="move it away"):
        JobStore(tmp_path)


def test_a_queue_is_in_no_snapshot() -> None:
    assert not is_state("jobs")
    assert is_state("workloads.yaml")
