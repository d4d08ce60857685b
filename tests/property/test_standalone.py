"""Segments that stand alone: any leaves of any two versions come out as they went in, and hostile ones are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwcp.errors import DwcpError, ProtocolError
from dwcp.hde import residue, standalone
from dwcp.hde.content import Content, from_buffer
from dwcp.hde.effort import FIRST, MAX_SECONDS, Effort
from dwcp.hde.matching import Matcher
from dwcp.hde.segment import SEGMENT, unpack_segment
from dwcp.transfer.segments import LEAST, segments

LEAF = 8192

pieces = st.lists(st.binary(min_size=1, max_size=5000), min_size=1, max_size=6)


@st.composite
def versions(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """An old and a new version made of the same pieces, in other places."""
    parts = draw(pieces)
    old = b"".join(draw(st.lists(st.sampled_from(parts), max_size=20)))
    new = b"".join(draw(st.lists(st.sampled_from([*parts, bytes(6000)]), min_size=1, max_size=20)))
    return old, new


def packed(old: bytes, new: bytes, algorithm: str, wanted: list[int]) -> tuple[Content, bytes, bytes]:
    """(base, packed segment, what it stands for)."""
    base = from_buffer(old)
    leaves = [(leaf * LEAF, new[leaf * LEAF : (leaf + 1) * LEAF]) for leaf in wanted]
    matched = standalone.match(Matcher(base), leaves)
    segment = standalone.encode(matched, base, algorithm, 0.01)
    return base, segment.pack(), b"".join(content for _, content in leaves)


@given(versions(), st.sampled_from([*residue.ALGORITHMS, "none"]), st.data())
def test_leaves_come_out_as_they_went_in(both: tuple[bytes, bytes], algorithm: str, data: st.DataObject) -> None:
    old, new = both
    count = -(-len(new) // LEAF)
    wanted = sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1)))
    base, body, expected = packed(old, new, algorithm, wanted)
    segment = unpack_segment(body, base.size, len(expected))
    assert standalone.decode(segment, base) == expected


@given(versions(), st.data())
def test_a_damaged_segment_is_refused_or_makes_as_much_as_it_should(
    both: tuple[bytes, bytes], data: st.DataObject
) -> None:
    old, new = both
    base, body, expected = packed(old, new, "auto", [0])
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        made = standalone.decode(unpack_segment(bytes(damaged), base.size, len(expected)), base)
    except DwcpError:
        return
    assert len(made) == len(expected)


@given(versions(), st.integers(-3000, 3000).filter(bool))
def test_a_segment_is_as_long_as_was_said(both: tuple[bytes, bytes], difference: int) -> None:
    old, new = both
    base, body, expected = packed(old, new, "auto", [0])
    with pytest.raises(ProtocolError):
        unpack_segment(body, base.size, len(expected) + difference)
    with pytest.raises(ProtocolError):
        unpack_segment(body + b"!", base.size, len(expected))
    with pytest.raises(ProtocolError):
        unpack_segment(body[: SEGMENT.size - 1], base.size, len(expected))


@given(st.sets(st.integers(0, 3000)), st.sampled_from([2**17, 2**20, 2**24]), st.integers(0, 64))
def test_segments_have_each_leaf_once_and_end_small(wanted: set[int], leaf_size: int, streams: int) -> None:
    leaves = sorted(wanted)
    groups = segments(leaves, leaf_size, streams)
    assert [leaf for group in groups for leaf in group] == leaves
    sizes = [len(group) * leaf_size for group in groups]
    assert all(size <= max(standalone.MAX_CONTENT, leaf_size) for size in sizes)
    assert sorted(sizes, reverse=True) == sizes
    if sizes:
        assert sizes[-1] <= max(LEAST, leaf_size)


def test_effort_follows_the_link() -> None:
    effort = Effort(cores=2)
    assert effort.budget(10_000_000, 8) == pytest.approx(10_000_000 * FIRST)
    effort.sent(0, 3.0)
    effort.sent(1_000_000, 1.0)
    assert effort.budget(1_000_000, 8) == pytest.approx(0.25)
    assert effort.budget(1_000_000, 1) == pytest.approx(1.0)
    for _ in range(30):
        effort.sent(1_000_000, 0.01)
    assert effort.budget(1_000_000, 1) == pytest.approx(0.01, rel=0.1)
    for _ in range(30):
        effort.sent(1_000_000, 60.0)
    assert effort.budget(1_000_000, 2) == MAX_SECONDS
