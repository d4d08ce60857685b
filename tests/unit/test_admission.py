"""Strangers against a dumb model that keeps all of history, and the bounds that must hold whatever they do."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwcp.supervise import admission
from dwcp.supervise.admission import Admission, AdmissionSettings, network

SETTINGS = AdmissionSettings(pending=4, pending_per_address=2, failures_per_minute=6)
STEPS = st.lists(
    st.tuples(
        st.floats(0, 20), st.sampled_from(["arrive", "proved", "failed", "tell"]), st.sampled_from(["a", "b", "c"])
    ),
    max_size=120,
)


class Dumb:
    """The rules once more: the bucket is worked out from the times of all failures, at each question."""

    def __init__(self) -> None:
        self.pending: Counter[str] = Counter()
        self.failures: dict[str, list[float]] = {}

    def left(self, address: str, now: float) -> float:
        limit = SETTINGS.failures_per_minute
        left, at = float(limit), 0.0
        for time in self.failures.get(address, []):
            left, at = min(limit, left + (time - at) * limit / 60) - 1, time
        return min(limit, left + (now - at) * limit / 60)

    def refuses(self, address: str, now: float) -> bool | None:
        """None where rounding decides."""
        if self.pending.total() >= 4 or self.pending[address] >= 2:
            return True
        left = self.left(address, now)
        return None if abs(left - 1) < 1e-6 else left < 1


@given(STEPS)
def test_who_is_let_in_is_what_the_dumb_model_says(steps: list[tuple[float, str, str]]) -> None:
    core, dumb, now = Admission(SETTINGS), Dumb(), 0.0
    for wait, event, address in steps:
        now += wait
        if event == "arrive":
            expected = dumb.refuses(address, now)
            refused = core.arrive(address, now)
            assert expected is None or bool(refused) == expected
            dumb.pending[address] += not refused
        elif event == "tell":
            core.tell(address, now)
        elif dumb.pending[address]:
            dumb.pending[address] -= 1
            if event == "failed":
                dumb.failures.setdefault(address, []).append(now)
                core.failed(address, now)
            else:
                core.proved(address, now)
        assert core.pending == dumb.pending.total()


@given(STEPS, st.floats(1, 200))
def test_failures_within_any_time_are_bounded(steps: list[tuple[float, str, str]], window: float) -> None:
    core, now = Admission(SETTINGS), 0.0
    failures: list[float] = []
    pending = 0
    for wait, event, _ in steps:
        now += wait
        if event in ("arrive", "tell"):
            pending += not core.arrive("a", now)
        elif pending:
            pending -= 1
            core.failed("a", now)
            failures.append(now)
    most = SETTINGS.failures_per_minute * (1 + window / 60) + SETTINGS.pending_per_address
    for begin in failures:
        assert sum(begin <= time <= begin + window for time in failures) <= most


@given(st.lists(st.tuples(st.floats(0, 0.6), st.sampled_from(["a", "b"])), max_size=100))
def test_a_line_a_second_an_address_and_none_is_forgotten(steps: list[tuple[float, str]]) -> None:
    core, now = Admission(SETTINGS), 0.0
    told: dict[str, list[tuple[float, int]]] = {"a": [], "b": []}
    asked: Counter[str] = Counter()
    for wait, address in steps:
        now += wait
        asked[address] += 1
        untold = core.tell(address, now)
        if untold is not None:
            told[address].append((now, untold))
    for address, lines in told.items():
        for (first, _), (second, _) in pairwise(lines):
            assert second - first >= 1.0
        untold = core.tell(address, now + 9)
        assert sum(count for _, count in lines) + len(lines) + (untold or 0) == asked[address]


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=200))
def test_the_table_is_bounded_and_nobody_with_a_place_is_forgotten(steps: list[tuple[int, bool]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(admission, "ADDRESSES", 8)
        core = Admission(AdmissionSettings(pending=4, pending_per_address=4, failures_per_minute=1000))
        pending: list[str] = []
        for number, leaves in steps:
            address = f"10.0.0.{number}"
            if leaves and pending:
                core.failed(pending.pop(0), 0.0)
            elif not core.arrive(address, 0.0):
                pending.append(address)
            assert len(core._addresses) <= 8
            assert core.pending == len(pending)
        for address in pending:
            core.proved(address, 0.0)
        assert core.pending == 0
        assert all(entry.pending == 0 for entry in core._addresses.values())


def test_who_has_a_place_or_was_seen_lately_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "ADDRESSES", 8)
    core = Admission(SETTINGS)
    assert core.arrive("slow", 0.0) == ""
    for _ in range(6):
        core.arrive("bad", 0.0)
        core.failed("bad", 0.0)
    for number in range(40):
        assert core.arrive(f"10.0.0.{number}", 0.0) == ""
        core.proved(f"10.0.0.{number}", 0.0)
        assert core.arrive("bad", 0.0), "what it did is still known"
    core.proved("slow", 0.0)
    assert core.pending == 0
    assert core.arrive("slow", 0.0) == core.arrive("slow", 0.0) == ""
    assert "from this address" in core.arrive("slow", 0.0)
    for number in range(8):
        core.tell(f"10.0.1.{number}", 0.0)
    assert core.arrive("bad", 0.0) == "", "who was not seen for longest goes"


def test_why_an_address_was_refused_is_known_for_a_while() -> None:
    core = Admission(SETTINGS)
    assert core.refused_since("a", 0.0, 0.0) == ""
    assert [bool(core.arrive("a", 1.0)) for _ in range(3)] == [False, False, True]
    assert "from this address" in core.refused_since("a", 1.0, 2.0)
    assert core.refused_since("a", 1.5, 2.0) == core.refused_since("b", 1.0, 2.0) == ""


def test_a_story_of_somebody_who_tries_keys() -> None:
    core = Admission(SETTINGS)
    for _ in range(6):
        assert core.arrive("10.0.0.1", 0.0) == ""
        core.failed("10.0.0.1", 0.0)
    assert "more than 6 handshakes a minute" in core.arrive("10.0.0.1", 9.9)
    assert core.arrive("10.0.0.2", 9.9) == "", "others are not kept out"
    assert core.arrive("10.0.0.1", 10.1) == "", "one more every ten seconds"
    core.failed("10.0.0.1", 10.1)
    assert "more than 6" in core.arrive("10.0.0.1", 10.2)


def test_one_honest_peer_with_the_most_streams_there_can_be_is_no_stranger() -> None:
    """32 dials at once, and all that were under way fail when the session that they join is gone."""
    core = Admission(AdmissionSettings())
    for _ in range(1024 // 32):
        assert [core.arrive("127.0.0.1", 0.0) for _ in range(32)] == [""] * 32
        for _ in range(32):
            core.proved("127.0.0.1", 0.0)
    for _ in range(10):
        assert [core.arrive("127.0.0.1", 0.0) for _ in range(32)] == [""] * 32
    for _ in range(320):
        core.failed("127.0.0.1", 0.0)
    assert core.arrive("127.0.0.1", 0.0) == ""


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::7", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("no address", "no address"),
    ],
)
def test_what_an_address_is_counted_as(address: str, counted: str) -> None:
    assert network(address) == counted


def test_one_that_leaves_without_a_word_costs_nothing() -> None:
    core = Admission(AdmissionSettings(pending=2, pending_per_address=2, failures_per_minute=1))
    for _ in range(100):
        assert core.arrive("10.0.0.1", 0.0) == ""
        core.left("10.0.0.1", 0.0)
    assert core.pending == 0
