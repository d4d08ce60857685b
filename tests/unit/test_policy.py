"""When, which, and what stays."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwcp.policy.queueing import Backoff, Limits, Queued, choose, next_look, parks
from dwcp.policy.retention import PERIODS, kept
from dwcp.policy.schedule import MOST_SETTLING, Schedule, Settling
from dwcp.units import parse_keep, parse_percent

UTC = datetime.UTC
START = datetime.datetime(2026, 3, 1, tzinfo=UTC)


def test_an_interval_begins_at_once_and_goes_on_from_the_newest_run() -> None:
    schedule = Schedule(every=300.0)
    assert schedule.next_due(1000.0, None) == 1000.0
    assert schedule.next_due(1000.0, 1010.0) == 1310.0


def test_a_cron_line_waits_for_its_moment_and_makes_up_for_one_that_was_missed() -> None:
    schedule, midnight = Schedule(cron="0 3 * * *"), START.timestamp()
    assert schedule.next_due(midnight, None, UTC) == midnight + 3 * 3600
    # the node was down for days: due since the first of them, once
    assert schedule.next_due(midnight, midnight + 4 * 3600, UTC) == midnight + 27 * 3600


def test_without_a_schedule_nothing_is_due() -> None:
    assert Schedule().next_due(0.0, None) is None


def test_the_earlier_of_interval_and_cron_line_counts() -> None:
    schedule, midnight = Schedule(every=7200.0, cron="0 1 * * *"), START.timestamp()
    assert schedule.next_due(midnight, midnight, UTC) == midnight + 3600
    assert schedule.next_due(midnight, midnight + 3600, UTC) == midnight + 3 * 3600


def test_changes_settle_but_not_for_ever() -> None:
    settling = Settling(2.0)
    assert settling.due() is None
    settling.changed(10.0)
    settling.changed(11.5)
    assert settling.due() == 13.5
    for second in range(12, 200):
        settling.changed(float(second))
    assert settling.due() == 10.0 + 2.0 * MOST_SETTLING
    settling.taken()
    assert settling.due() is None


def _kept_by_the_book(times: list[datetime.datetime], keep: dict[str, int]) -> set[int]:
    """The rule as it is written, without any cleverness."""
    if not keep:
        return set(range(len(times)))
    newest_first = sorted(range(len(times)), key=lambda index: (times[index], index), reverse=True)
    stay = set(newest_first[:1]) | set(newest_first[: keep.get("last", 0)])
    for rule, period in PERIODS.items():
        newest_of: dict[object, int] = {}
        for index in newest_first:
            newest_of.setdefault(period(times[index]), index)
        stay |= set(list(newest_of.values())[: keep.get(rule, 0)])
    return stay


@given(
    st.lists(st.integers(0, 3 * 365 * 24).map(lambda hours: START + datetime.timedelta(hours=hours)), max_size=60),
    st.dictionaries(st.sampled_from(["last", *PERIODS]), st.integers(0, 12), max_size=4),
)
def test_what_stays_is_what_the_rules_say(times: list[datetime.datetime], keep: dict[str, int]) -> None:
    stay = kept(times, keep)
    assert stay == _kept_by_the_book(times, keep)
    assert not times or max(range(len(times)), key=lambda index: (times[index], index)) in stay


@given(st.lists(st.integers(0, 100 * 24), min_size=1, max_size=80, unique=True))
def test_pruning_as_versions_come_keeps_what_pruning_once_would(hours: list[int]) -> None:
    keep = {"last": 3, "daily": 4}
    present: list[datetime.datetime] = []
    for hour in sorted(hours):
        present.append(START + datetime.timedelta(hours=hour))
        present = [present[index] for index in sorted(kept(present, keep))]
    everything = [START + datetime.timedelta(hours=hour) for hour in sorted(hours)]
    assert {everything[index] for index in kept(everything, keep)} == set(present)


@pytest.mark.parametrize(
    ("text", "rules"),
    [("all", {}), ("last 5", {"last": 5}), ("last 5, daily 7,weekly 4", {"last": 5, "daily": 7, "weekly": 4})],
)
def test_what_to_keep_is_read(text: str, rules: dict[str, int]) -> None:
    assert parse_keep(text) == rules


@pytest.mark.parametrize("text", ["", "5", "last", "last 0", "last -1", "last 5, last 6", "hourly 1.5", "daily 999999"])
def test_what_keeps_nothing_or_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="keep"):
        parse_keep(text)


def test_shares_are_read() -> None:
    assert (parse_percent("25%"), parse_percent(" 100 % "), parse_percent("10Mbit/s")) == (0.25, 1.0, None)
    for text in ("0%", "101%", "-5%", "a%"):
        with pytest.raises(ValueError, match="share"):
            parse_percent(text)


def _job(number: int, peer: str = "b", priority: int = 5, not_before: float = 0.0, alone: str = "") -> Queued:
    return Queued(number, peer, priority, not_before, alone)


def test_the_most_urgent_goes_first_then_the_oldest() -> None:
    waiting = [_job(1), _job(2, priority=9), _job(3, "c"), _job(4, "c", priority=9)]
    assert choose(waiting, [], 0.0, Limits(3, 1)) == [2, 4]
    assert choose(waiting, [], 0.0, Limits(3, 2)) == [2, 4, 1]


def test_what_waits_is_busy_or_cut_off_is_passed_over() -> None:
    waiting = [_job(1, not_before=10.0), _job(2, alone="db"), _job(3, alone="www"), _job(4, "c")]
    running = [_job(9, "d", alone="db")]
    assert choose(waiting, running, 5.0, Limits(9, 9), closed={"c"}) == [3]
    assert next_look(waiting, 5.0) == 10.0
    assert next_look(waiting, 10.0) is None


def test_two_jobs_that_must_be_alone_do_not_start_together() -> None:
    assert choose([_job(1, alone="db"), _job(2, "c", alone="db")], [], 0.0, Limits(9, 9)) == [1]


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 9), st.floats(0, 20), st.sampled_from(["", "x", "y"])),
        max_size=30,
    ),
    st.integers(1, 6),
    st.integers(1, 4),
)
def test_limits_always_hold(jobs: list[tuple[str, int, float, str]], at_once: int, per_peer: int) -> None:
    waiting = [Queued(number, *job) for number, job in enumerate(jobs)]
    chosen = [waiting[number] for number in choose(waiting, [], 10.0, Limits(at_once, per_peer))]
    assert len(chosen) <= at_once
    assert all(sum(job.peer == peer for job in chosen) <= per_peer for peer in "abc")
    assert all(sum(job.alone == name for job in chosen) <= 1 for name in "xy")
    assert all(job.not_before <= 10.0 for job in chosen)


def test_pauses_double_up_to_the_most_and_differ_by_chance() -> None:
    backoff = Backoff(10.0, 100.0, retries=3)
    assert [backoff.pause(attempt, 0.0) for attempt in (1, 2, 3, 4, 5, 1000)] == [10, 20, 40, 80, 100, 100]
    assert backoff.pause(1, 1.0) == 5.0


def test_what_cannot_help_is_not_tried_again() -> None:
    backoff = Backoff(10.0, 100.0, retries=3)
    assert parks("refused", 1, backoff)
    assert not parks("unreachable", 3, backoff)
    assert parks("unreachable", 4, backoff)
