"""The checker finds what it is for."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.linearizability import ABSENT, Operation, expiry, is_linearizable, read, swap


def test_what_overlaps_may_be_in_any_order() -> None:
    assert is_linearizable([swap(0, 3, ABSENT, "a", True), read(1, 2, ABSENT), read(1, 2, "a")])
    assert is_linearizable([swap(0, 3, ABSENT, "a", True), swap(0, 3, ABSENT, "b", False)])


def test_a_stale_read_is_found() -> None:
    assert not is_linearizable([swap(0, 1, ABSENT, "a", True), read(2, 3, ABSENT)])
    assert not is_linearizable([swap(0, 3, ABSENT, "a", True), read(1, 1.5, "a"), read(2, 2.5, ABSENT)])


def test_two_winners_are_found() -> None:
    assert not is_linearizable([swap(0, 3, ABSENT, "a", True), swap(0, 3, ABSENT, "b", True)])
    assert not is_linearizable([swap(0, 1, ABSENT, "a", True), swap(2, 3, "a", "b", False)])


def test_what_was_lost_may_come_late_or_never() -> None:
    lost = swap(0, 1, ABSENT, "a", None)
    assert is_linearizable([lost, read(5, 6, ABSENT), read(8, 9, "a")])
    assert is_linearizable([lost, read(5, 6, ABSENT)])
    assert not is_linearizable([lost, read(5, 6, "a"), read(8, 9, ABSENT)])
    assert not is_linearizable([lost, read(5, 6, "b")])


def test_a_lease_does_not_end_early() -> None:
    taken = [swap(0, 1, ABSENT, "a", True), expiry(10, "a")]
    assert is_linearizable([*taken, swap(11, 12, ABSENT, "b", True)])
    assert not is_linearizable([*taken, swap(8, 9, ABSENT, "b", True)])


@given(st.data())
@settings(deadline=None)
def test_what_one_after_the_other_gave_is_accepted_however_it_overlaps(data: st.DataObject) -> None:
    value, history, now = ABSENT, list[Operation](), 0.0
    for number in range(data.draw(st.integers(1, 25))):
        now += 1.0
        began, ended = now - data.draw(st.floats(0, 4)), now + data.draw(st.floats(0, 4))
        if data.draw(st.booleans()):
            history.append(read(began, ended, value))
            continue
        old = data.draw(st.sampled_from([ABSENT, value, "other"]))
        new = f"v{number}"
        done = old == value
        told = data.draw(st.sampled_from([done, None]))
        history.append(swap(began, ended, old, new, told))
        value = new if done else value
    assert is_linearizable(history)
    history.append(read(now + 10, now + 11, "never"))
    assert not is_linearizable(history)
