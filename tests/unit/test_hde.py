"""Codecs, chunks, deltas: identity for whatever goes in, typed errors for whatever is wrong."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwcp.errors import ProtocolError
from dwcp.hde import codecs, delta, hashes, index
from dwcp.hde.adaptive import EXPLORE_EVERY, Adaptive
from dwcp.transfer.selftest import check_compression
from dwcp.wire.frames import MAX_BODY


@given(st.sampled_from(codecs.CODECS), st.sampled_from(codecs.LEVELS), st.binary(max_size=5000))
def test_every_codec_gives_back_what_it_got(codec: codecs.Codec, level: str, data: bytes) -> None:
    chosen, body = codecs.encode(codec, level, data, 1.1)
    assert bytes(memoryview(codecs.decode(chosen.id, body, len(data)))) == data


@given(st.integers(0, 255), st.binary(max_size=500), st.integers(0, 100_000))
def test_damaged_bodies_are_protocol_errors(codec: int, body: bytes, size: int) -> None:
    try:
        out = codecs.decode(codec, body, size)
    except ProtocolError:
        return
    assert memoryview(out).nbytes == size


@pytest.mark.parametrize("name", ["zstd", "lz4", "snappy"])
def test_a_bomb_ends_at_what_was_promised(name: str) -> None:
    bomb = codecs.BY_NAME[name].encode(bytes(16 * 2**20), "fast")
    with pytest.raises(ProtocolError):
        codecs.decode(codecs.BY_NAME[name].id, bomb, 1000)


def test_what_does_not_shrink_enough_goes_plain() -> None:
    noise = random.Random(1).randbytes(100_000)
    assert codecs.encode(codecs.BY_NAME["zstd"], "max", noise, 1.1) == (codecs.NONE, noise)
    half = noise[:50_000] + bytes(50_000)
    assert codecs.encode(codecs.BY_NAME["zstd"], "fast", half[::-1], 3.0)[0] is codecs.NONE


def test_the_self_test_passes() -> None:
    check_compression()


@given(st.integers(0, 2**44))
def test_leaves_cover_an_object(size: int) -> None:
    leaf, count = hashes.leaf_size(size), hashes.leaf_count(size)
    assert hashes.MIN_LEAF <= leaf <= hashes.MAX_LEAF
    assert count <= hashes.MAX_LEAVES
    assert (count - 1) * leaf < size <= count * leaf or size == count == 0


def _reader(content: bytes) -> index.ReadAt:
    return lambda offset, size: content[offset : offset + size]


def _round_trip(base: bytes, new: bytes, leaf_size: int) -> int:
    """Puts `new` together from `base` leaf by leaf; the literal bytes that took."""
    table = index.unpack_index(
        index.pack_index(index.page_hashes(base), index.cut(_reader(base), len(base))), len(base)
    )
    literal = 0
    margin = 4 * index.average_chunk(len(base))

    def read(offset: int, view: memoryview) -> int:
        piece = base[offset : offset + len(view)]
        view[: len(piece)] = piece
        return len(piece)

    for at in range(0, len(new), leaf_size):
        leaf = memoryview(new)[at : at + leaf_size]
        start = max(0, at - margin)
        window = memoryview(new)[start : at + len(leaf) + margin]
        for ops in (
            delta.in_place(leaf, at, table.pages, at // index.PAGE),
            delta.moved(window, start, at, len(leaf), len(base), table),
        ):
            out = bytearray(len(leaf))
            delta.assemble(ops, memoryview(delta.literals(leaf, ops)), memoryview(out), read)
            assert out == leaf
        literal += delta.literal_size(ops)
    return literal


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_deltas_are_identity_for_any_two_buffers(data: st.DataObject) -> None:
    chance = random.Random(data.draw(st.integers(0, 10**6)))
    base = chance.randbytes(data.draw(st.sampled_from([0, 1, 4096, 70_000, 400_000])))
    new = bytearray(base)
    for _ in range(data.draw(st.integers(0, 4))):
        at = chance.randrange(len(new) + 1)
        match data.draw(st.sampled_from(["insert", "cut", "change", "truncate"])):
            case "insert":
                new[at:at] = chance.randbytes(chance.randrange(5000))
            case "cut":
                del new[at : at + chance.randrange(5000)]
            case "change":
                new[at : at + 10] = chance.randbytes(10)
            case "truncate":
                del new[at:]
    _round_trip(base, bytes(new), 65536)


def test_content_that_moved_is_found() -> None:
    base = random.Random(1).randbytes(8_000_000)
    assert _round_trip(base, b"in front" + base, 2**20) < 200_000
    assert _round_trip(base, base[4_000_000:] + base[:4_000_000], 2**20) < 200_000


@given(st.binary(max_size=300), st.integers(0, 10_000))
def test_a_lying_index_is_a_protocol_error(body: bytes, size: int) -> None:
    try:
        index.unpack_index(body, size)
    except ProtocolError:
        return


@given(st.lists(st.tuples(st.integers(-1, 3000), st.integers(0, 3000)), max_size=6), st.binary(max_size=2000))
def test_a_lying_delta_is_a_protocol_error(ops: list[tuple[int, int]], literal: bytes) -> None:
    base = bytes(2000)
    out = bytearray(1500)

    def read(offset: int, view: memoryview) -> int:
        return len(base[offset : offset + len(view)])

    try:
        delta.assemble(ops, memoryview(literal), memoryview(out), read)
    except ProtocolError:
        return
    assert sum(length for _, length in ops) == len(out)


def test_windows_of_a_long_baseline_fit_together() -> None:
    content = os.urandom(index.WINDOW * 2 + 12345)
    assert sum(length for length, _ in index.cut(_reader(content), len(content))) == len(content)
    whole = [chunk.length for chunk in index.chunking(len(content)).cut_buf(content)]
    assert [length for length, _ in index.cut(_reader(content), len(content))] == whole


def _drive(controller: Adaptive, plain: float, packed: float, blocks: int) -> float:
    """Share of blocks compressed, when each way costs so many seconds a byte."""
    count = 0
    for _ in range(blocks):
        tried = controller.choose()
        count += tried
        controller.observe(tried, tried, 1000, (packed if tried else plain) * 1000)
    return count / blocks


def test_the_cheaper_way_wins_and_the_other_is_tried_now_and_then() -> None:
    fast_link = Adaptive(threshold=15.0)
    _drive(fast_link, plain=1.0, packed=5.0, blocks=50)
    assert _drive(fast_link, plain=1.0, packed=5.0, blocks=640) == 1 / EXPLORE_EVERY
    assert _drive(fast_link, plain=9.0, packed=5.0, blocks=2000) > 0.7
    slow_link = Adaptive(threshold=15.0)
    _drive(slow_link, plain=5.0, packed=1.0, blocks=50)
    assert _drive(slow_link, plain=5.0, packed=1.0, blocks=640) > 0.95


def test_the_threshold_keeps_it_from_flipping() -> None:
    controller = Adaptive(threshold=15.0)
    _drive(controller, plain=0.9, packed=1.0, blocks=500)
    assert controller.compressing
    assert Adaptive(threshold=15.0, enabled=False).choose()


@pytest.mark.parametrize("base_size", [1, 2**31, index.MAX_CHUNKED, index.MAX_CHUNKED + 1, 2**44])
def test_baselines_of_any_size_can_be_cut_and_indexed_in_a_frame(base_size: int) -> None:
    assert index.chunking(base_size).avg_size == index.average_chunk(base_size)
    pages = index.MAX_INDEXED // index.PAGE
    assert 4 + 8 * pages + 12 * 4 * index.CHUNKS_WANTED < MAX_BODY
    assert index.MAX_INDEXED % hashes.leaf_size(base_size) == 0
