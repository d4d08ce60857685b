"""Indexes, deltas and compressed bodies that lie: refused by a ProtocolError, in bounded memory."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwcp.errors import ProtocolError
from dwcp.hde import codecs, delta, index
from dwcp.hde.codecs import zstd

MIB = 2**20
many = settings(max_examples=100, deadline=None)


def memory_of(act: Callable[[], Any]) -> int:
    """The most bytes that Python objects took while `act` was refused with a ProtocolError."""
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@many
@given(st.sampled_from(codecs.CODECS[1:]), st.binary(min_size=1, max_size=2000), st.data())
def test_a_damaged_body_never_decodes_to_another_length(codec: codecs.Codec, plain: bytes, data: st.DataObject) -> None:
    body = bytearray(codec.encode(plain, "fast"))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    del body[data.draw(st.integers(0, len(body))) :]
    size = data.draw(st.sampled_from([0, 1, len(plain), len(plain) + 1, 16 * MIB]))
    try:
        out = codecs.decode(codec.id, bytes(body), size)
    except ProtocolError:
        return
    assert memoryview(out).nbytes == size


@pytest.mark.parametrize("codec", codecs.CODECS[1:], ids=lambda codec: codec.name)
@pytest.mark.parametrize("promised", [0, 1, 1000, 64 * MIB - 1])
def test_a_bomb_takes_no_more_than_was_promised(codec: codecs.Codec, promised: int) -> None:
    bomb = codec.encode(bytes(64 * MIB), "fast")
    with pytest.raises(ProtocolError):
        codecs.decode(codec.id, bomb, promised)


@pytest.mark.parametrize("codec", codecs.CODECS[1:], ids=lambda codec: codec.name)
@pytest.mark.parametrize("change", [-1, 1])
def test_a_body_one_byte_longer_or_shorter_than_promised(codec: codecs.Codec, change: int) -> None:
    plain = random.Random(1).randbytes(5000)
    with pytest.raises(ProtocolError):
        codecs.decode(codec.id, codec.encode(plain, "fast"), len(plain) + change)


def test_a_zstd_body_is_one_frame_of_a_modest_window() -> None:
    plain = bytes(100)
    one = codecs.BY_NAME["zstd"].encode(plain, "fast")
    wide = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
    vast = wide.compress(plain) + wide.flush()
    for body in (one + one, one + b"tail", one[:-1], vast, b""):
        with pytest.raises(ProtocolError):
            codecs.decode(1, body, 100)


def test_a_list_of_names_that_is_a_bomb() -> None:
    bomb = codecs.encode_names(bytes(64 * MIB))
    assert memory_of(lambda: codecs.decode_names(bomb, 1000)) < MIB


@many
@given(st.data())
def test_a_damaged_index_is_an_index_or_a_protocol_error(data: st.DataObject) -> None:
    base = random.Random(1).randbytes(300_000)
    good = index.pack_index(index.page_hashes(base[:8192]), index.cut(lambda at, size: base[at : at + size], len(base)))
    body = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    del body[data.draw(st.integers(0, len(body))) :]
    try:
        table = index.unpack_index(bytes(body), len(base))
    except ProtocolError:
        return
    assert all(0 <= at <= at + length <= len(base) for at, length in table.chunks.values())


@pytest.mark.parametrize("base_size", [3_000_000, 2**31, 2**44, 2**63 - 1])
def test_an_index_of_absurdly_many_chunks_is_not_kept(base_size: int) -> None:
    """A body of the largest allowed size, cut into chunks of one byte, would be a table of 2.7 million entries."""
    body = struct.pack(">I", 0) + struct.pack(">IQ", 1, 0) * 2_700_000
    assert memory_of(lambda: index.unpack_index(body, base_size)) < 4 * MIB


@many
@given(st.integers(0, 600_000), st.integers(0, 2**32))
def test_every_honest_index_is_within_the_bound(size: int, seed: int) -> None:
    chance = random.Random(seed)
    base = chance.randbytes(size) if seed % 2 else bytes(size)
    body = index.pack_index(index.page_hashes(b""), index.cut(lambda at, length: base[at : at + length], size))
    assert sum(length for _, length in index.unpack_index(body, size).chunks.values()) <= size


offsets = st.sampled_from([-1, 0, 1, 4096, 2000, 2**31, 2**62, 2**63 - 1]) | st.integers(-1, 3000)
lengths = st.sampled_from([0, 1, 1500, 2**31, 2**32 - 1]) | st.integers(0, 3000)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(offsets, lengths), max_size=8), st.binary(max_size=2000))
def test_hostile_operations_fill_a_leaf_or_are_refused(ops: list[tuple[int, int]], literal: bytes) -> None:
    out = bytearray(1500)
    try:
        delta.assemble(
            ops, memoryview(literal), memoryview(out), lambda at, view: len(bytes(2000)[at : at + len(view)])
        )
    except ProtocolError:
        return
    assert sum(length for _, length in ops) == len(out)
