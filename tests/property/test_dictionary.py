"""Dictionaries: what they make is what they were given, they pay or are not used, and nothing of a peer is believed."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwcp.errors import IntegrityError, ProtocolError
from dwcp.hde import dictionary as hde
from dwcp.hde.dictionary import SAMPLES_SIZE, Dictionary, Samples, Use, judge, packed, train, unpacked
from dwcp.store.dictionaries import Dictionaries
from dwcp.transfer.dictionaries import MOST_TAKEN, Taken
from dwcp.wire import messages as m


def objects(count: int, seed: int = 1) -> list[bytes]:
    rng = random.Random(seed)
    shape = {f"a field that all of them have, number {number}": "and a value" for number in range(12)}
    return [
        json.dumps(shape | {"id": rng.randrange(10**9), "key": rng.randbytes(8).hex()}).encode() for _ in range(count)
    ]


def trained() -> Dictionary:
    found = train(objects(100))
    assert found is not None
    return found


DICTIONARY = trained()


@given(st.binary(max_size=5000), st.sampled_from(["fast", "balanced", "max"]))
def test_content_comes_back(content: bytes, level: str) -> None:
    assert DICTIONARY.decode(DICTIONARY.encode(content, level), len(content)) == content


@given(st.binary(max_size=2000), st.integers(0, 10_000))
def test_nonsense_is_refused_or_has_the_size_that_was_said(body: bytes, size: int) -> None:
    try:
        assert len(DICTIONARY.decode(body, size)) == size
    except ProtocolError:
        pass


def test_a_bomb_ends_after_what_was_promised() -> None:
    bomb = DICTIONARY.encode(bytes(200_000_000), "fast")
    with pytest.raises(ProtocolError):
        DICTIONARY.decode(bomb, 1000)


@given(st.lists(st.binary(max_size=20_000), max_size=60), st.randoms(use_true_random=False))
def test_samples_are_bounded(offered: list[bytes], chance: random.Random) -> None:
    samples = Samples()
    for sample in offered:
        samples.offer(sample, chance)
    assert sum(map(len, samples.kept)) <= SAMPLES_SIZE
    assert set(samples.kept) <= set(offered)
    again = Samples(samples.kept, samples.offered)
    assert (again.kept, again.offered) == (samples.kept, samples.offered)


def test_one_that_pays_is_chosen_and_kept() -> None:
    samples = objects(200)
    chosen = judge(None, samples, Use(packs=50, files=50), "balanced")
    assert chosen is not None
    # another one would have to save more than it costs to send
    assert judge(chosen, objects(200, seed=2), Use(packs=50, files=50), "balanced") is chosen


@pytest.mark.parametrize(
    ("samples", "use"),
    [
        (objects(200), Use(packs=1, files=1)),
        (objects(200), Use(packs=4, files=4 * 200)),
        ([random.Random(seed).randbytes(500) for seed in range(200)], Use(packs=1000, files=1000)),
        (objects(3), Use(packs=1000, files=1000)),
        ([], Use(packs=1000, files=1000)),
    ],
    ids=["too seldom", "too many together", "nothing in common", "too few", "none"],
)
def test_one_that_does_not_pay_is_not_chosen(samples: list[bytes], use: Use) -> None:
    assert judge(None, samples, use, "balanced") is None


def test_one_that_stops_paying_is_dropped() -> None:
    noise = [random.Random(seed).randbytes(500) for seed in range(200)]
    assert judge(DICTIONARY, noise, Use(packs=1000, files=1000), "balanced") is None


def test_one_that_came_is_what_was_sent() -> None:
    assert unpacked(packed(DICTIONARY), len(DICTIONARY.content)) == DICTIONARY


@pytest.mark.parametrize("body", [b"", b"nonsense", packed(DICTIONARY)[:-5]])
def test_nonsense_is_no_dictionary(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpacked(body, len(DICTIONARY.content))


def test_a_large_one_is_refused() -> None:
    with pytest.raises(ProtocolError, match="larger than is allowed"):
        unpacked(packed(DICTIONARY), hde.MAX_SIZE + 1)


@pytest.fixture
def taken(tmp_path: Any) -> Taken:
    return Taken(Dictionaries(tmp_path, "a"))


def test_one_with_another_name_is_refused(taken: Taken) -> None:
    with pytest.raises(ProtocolError, match="not what it is called"):
        taken.take(m.Dictionary(id=bytes(16), size=len(DICTIONARY.content)), packed(DICTIONARY))


def test_one_that_is_not_held_is_asked_for_again(taken: Taken) -> None:
    with pytest.raises(IntegrityError, match="not here any more"):
        taken.decode(DICTIONARY.id, b"", 0)


def test_a_session_uses_a_few(taken: Taken) -> None:
    for seed in range(MOST_TAKEN + 1):
        found = train(objects(100, seed))
        assert found is not None
        if seed == MOST_TAKEN:
            with pytest.raises(ProtocolError, match="more dictionaries"):
                taken.take(m.Dictionary(id=found.id, size=len(found.content)), packed(found))
        else:
            taken.take(m.Dictionary(id=found.id, size=len(found.content)), packed(found))
