"""A delta and its base make what the delta was made of, whatever the two contents; anything else is a typed error."""

from __future__ import annotations

import array
import io
import random
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dwcp.errors import DwcpError, IntegrityError, ProtocolError, StorageError, UsageError, VersionError
from dwcp.hde import residue, segment
from dwcp.hde.codecs import encode_names
from dwcp.hde.content import EMPTY, Content, from_buffer, leaf_digests
from dwcp.hde.decoder import DeltaDecoder
from dwcp.hde.encoder import DeltaEncoder
from dwcp.hde.hashes import BLAKE3, MIN_LEAF, XXH3
from dwcp.hde.index import PAGE
from dwcp.hde.operations import COPY, LITERAL, ZERO, Op

MIB = 1024 * 1024
NOISE = random.Random(7).randbytes(3 * MIB)
TEXT = b"".join(b'{"id": %d, "name": "item %d"}\n' % (n, n * n) for n in range(40_000))


def encode(base: bytes, new: bytes, algorithm: str = "auto") -> bytes:
    return b"".join(DeltaEncoder(from_buffer(base), from_buffer(new), algorithm=algorithm, budget=0.05).run())


def decode(delta: bytes, base: bytes, max_size: int = 16 * MIB) -> bytes:
    leaves = DeltaDecoder(io.BytesIO(delta).read).run(from_buffer(base), max_size=max_size)
    return b"".join(bytes(size) if data is None else bytes(data) for size, data in leaves)


@st.composite
def versions(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A base and what became of it: cut, shifted, changed, moved, repeated, holes."""
    size = draw(st.integers(0, len(NOISE)))
    base = bytearray(draw(st.sampled_from([NOISE, TEXT, bytes(3 * MIB)]))[:size])
    new = bytearray(base)
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(new)))
        length = draw(st.sampled_from([1, 7, 100, PAGE, 5 * PAGE, MIB]))
        match draw(st.sampled_from(["insert", "delete", "change", "move", "zero", "truncate", "align"])):
            case "insert":
                new[at:at] = NOISE[at % 1000 :][:length]
            case "delete":
                del new[at : at + length]
            case "change":
                new[at : at + length] = bytes(byte ^ 0x5A for byte in new[at : at + length])
            case "move":
                to = draw(st.integers(0, len(new)))
                new[to:to] = new[at : at + length]
            case "zero":
                new[at : at + length] = bytes(min(length, len(new) - at))
            case "truncate":
                del new[at:]
            case "align":
                del new[at // PAGE * PAGE :][:PAGE]
    return bytes(base), bytes(new[: 8 * MIB])


@given(versions(), st.sampled_from(residue.ALGORITHMS))
@settings(max_examples=60, deadline=None)
@example((b"", b""), "auto")
@example((b"", b"x"), "auto")
@example((b"x", b""), "auto")
@example((NOISE, b"x" + NOISE), "auto")
@example((NOISE[:MIB], NOISE[:MIB]), "prefix")
@example((bytes(MIB), NOISE[: MIB + 1]), "xor")
def test_a_round_trip_is_the_identity(pair: tuple[bytes, bytes], algorithm: str) -> None:
    base, new = pair
    assert decode(encode(base, new, algorithm), base) == new


@given(st.binary(max_size=300), st.binary(max_size=300), st.sampled_from(residue.ALGORITHMS))
@settings(max_examples=300, deadline=None)
def test_any_two_small_buffers(base: bytes, new: bytes, algorithm: str) -> None:
    assert decode(encode(base, new, algorithm), base) == new


@pytest.mark.parametrize(
    ("new", "most"),
    [
        (NOISE, 100),
        (b"x" + NOISE, 110),
        (NOISE + b"x", 110),
        (NOISE[1:], 110),
        (NOISE[MIB:] + NOISE[:MIB], 120),
        (b"".join(NOISE[at : at + PAGE] for at in reversed(range(0, len(NOISE), PAGE))), 600),
        (b"".join(NOISE[at : at + 65_537] for at in reversed(range(0, len(NOISE), 65_537))), len(NOISE) // 100),
        (bytes(4 * MIB), 100),
        (NOISE[:MIB] + NOISE[: 2 * MIB], 110),
    ],
    ids=["same", "front", "append", "cut", "rotated", "reversed pages", "reversed blocks", "zeros", "repeated"],
)
def test_what_the_base_has_costs_next_to_nothing(new: bytes, most: int) -> None:
    delta = encode(NOISE, new)
    assert len(delta) <= most
    assert decode(delta, NOISE) == new


def test_each_algorithm_does_what_its_name_says() -> None:
    base = TEXT[:MIB]
    changed = bytearray(base)
    for at in range(1000, len(changed) - 20, 30_000):
        changed[at : at + 5] = b"other"
    new = from_buffer(changed + TEXT[MIB : MIB + 20_000])
    codings = {"prefix": residue.PREFIX, "xor": residue.XOR, "rsync": residue.ZSTD, "bsdiff": residue.BSDIFF}
    for algorithm, coding in codings.items():
        encoder = DeltaEncoder(from_buffer(base), new, algorithm=algorithm)
        assert sum(map(len, encoder.run())) < 10_000
        assert list(encoder.statistics.codings) == [coding]


def test_auto_takes_numbers_that_moved_little_apart() -> None:
    source = random.Random(3)
    old = array.array("f", (source.gauss(0, 1) for _ in range(300_000)))
    new = array.array("f", (value * (1 + source.gauss(0, 1e-5)) for value in old))
    encoder = DeltaEncoder(from_buffer(old), from_buffer(new))
    size = sum(map(len, encoder.run()))
    assert list(encoder.statistics.codings) == [residue.XOR]
    assert size < 0.6 * 4 * len(old)


def test_small_changes_in_text_cost_their_like() -> None:
    new = TEXT.replace(b'"item 4000"', b'"something else"').replace(b"item 9", b"thing 9")
    assert len(encode(TEXT, new)) < len(TEXT) // 50
    assert decode(encode(TEXT, new), TEXT) == new


def test_only_dirty_leaves_are_read() -> None:
    base = NOISE
    new = bytearray(base)
    new[MIB + 10] ^= 1
    asked: list[int] = []

    def read(offset: int, size: int) -> bytes:
        asked.append(offset)
        return bytes(new[offset : offset + size])

    content = Content(len(new), read)
    known = leaf_digests(from_buffer(base), XXH3)
    encoder = DeltaEncoder(from_buffer(base), content, base_leaves=known, dirty=[(MIB, PAGE)])
    delta = b"".join(encoder.run())
    assert asked == [MIN_LEAF]
    assert decode(delta, base) == bytes(new)
    with pytest.raises(UsageError, match="not within content"):
        DeltaEncoder(from_buffer(base), content, dirty=[(len(new), 1)])


def test_dirty_pages_that_were_not_told_are_found_at_the_other_end_or_change_nothing() -> None:
    new = bytearray(NOISE)
    new[0] ^= 1
    encoder = DeltaEncoder(from_buffer(NOISE), from_buffer(new), dirty=[])
    assert decode(b"".join(encoder.run()), NOISE) == NOISE


def test_holes_are_not_read() -> None:
    def read(offset: int, size: int) -> bytes:
        raise AssertionError("a hole was read")

    size = 2**33
    content = Content(size, read, lambda offset, length: True)
    delta = b"".join(DeltaEncoder(EMPTY, content).run())
    assert len(delta) < 100
    leaves = DeltaDecoder(io.BytesIO(delta).read).run(EMPTY, max_size=size)
    assert sum(length for length, data in leaves if data is None) == size


def test_blake3_too() -> None:
    encoder = DeltaEncoder(from_buffer(NOISE), from_buffer(NOISE[5:]), hash_=BLAKE3)
    delta = b"".join(encoder.run())
    assert decode(delta, NOISE) == NOISE[5:]
    assert encoder.leaves == leaf_digests(from_buffer(NOISE[5:]), BLAKE3)


def test_usage() -> None:
    with pytest.raises(UsageError, match="unknown delta algorithm 'best'"):
        DeltaEncoder(EMPTY, EMPTY, algorithm="best")
    with pytest.raises(UsageError, match="more than 255 bytes"):
        DeltaEncoder(EMPTY, EMPTY, base_id=bytes(256))
    with pytest.raises(StorageError, match="cut short while it was read"):
        list(DeltaEncoder(EMPTY, Content(10, lambda offset, size: b"")).run())


# --- what a hostile delta can do ---

GOOD = encode(TEXT[:200_000], TEXT[500:150_000] + b"tail" * 100)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
@settings(max_examples=400, deadline=None)
def test_a_changed_byte_is_a_typed_error_or_nothing(at: int, change: int) -> None:
    damaged = bytearray(GOOD)
    damaged[at] ^= change
    try:
        # the base's name is for the caller, and may be anything
        assert decode(bytes(damaged), TEXT[:200_000]) == TEXT[500:150_000] + b"tail" * 100
    except (ProtocolError, IntegrityError):
        pass


@given(st.integers(0, len(GOOD) - 1))
@settings(max_examples=100, deadline=None)
def test_a_delta_that_is_cut_short(length: int) -> None:
    with pytest.raises(ProtocolError):
        decode(GOOD[:length], TEXT[:200_000])


def crafted(ops: list[Op], coding: int = 0, parameter: int = 0, body: bytes = b"", size: int | None = None) -> bytes:
    """A delta of one segment against TEXT[:1000]."""
    base = from_buffer(TEXT[:1000])
    total = sum(length for _, length, _ in ops) if size is None else size
    root = XXH3.root(leaf_digests(base, XXH3), base.size)
    head = segment.Header(XXH3, b"", base.size, root, total).pack()
    return head + segment.Segment(ops, coding, parameter, body).pack() + segment.pack_end(bytes(16))


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        (b"GIF89a" + GOOD, "begins with other bytes"),
        (GOOD[:7] + b"\x09" + GOOD[8:], "version 9"),
        (GOOD[:8] + b"\x09" + GOOD[9:], "unknown hash"),
        (GOOD + b"x", "goes on after its end"),
        (crafted([(COPY, 1001, 0)]), "outside of its base"),
        (crafted([(COPY, 1, 2**62)]), "outside of its base"),
        (crafted([(COPY, 10, 0)], size=9), "does not fit its content"),
        (crafted([(COPY, 10, 0)], size=11), "makes 10 bytes and promised 11"),
        (crafted([(ZERO, 2**40, 0)]), "are allowed here"),
        (crafted([(LITERAL, 10, 0)], body=b"short"), "instead of 10"),
        (crafted([(LITERAL, 10, 0)], residue.ZSTD, body=encode_names(bytes(10**6))), "not one frame of 10 bytes"),
        (crafted([(LITERAL, 10, 0)], residue.PREFIX, body=b"garbage"), "cannot be decoded"),
        (crafted([(LITERAL, 10, 0)], 9, body=b"0123456789"), "unknown coding 9"),
        (crafted([(LITERAL, 10, 0)], residue.XOR, 3, encode_names(bytes(10))), "numbers of 3 bytes"),
        (crafted([(LITERAL, 10, 0)], residue.BSDIFF, 0, b"x"), "bsdiff body is cut short"),
        (crafted([(LITERAL, 10, 0)], residue.BSDIFF, 0, bytes(12)), "does not fit its literals"),
        (crafted([(COPY, 10, 0)]), "is not what the delta was made of"),
        (crafted([(COPY, 10, 0)], body=b"more"), "instead of 0"),
    ],
)
def test_hostile_deltas(delta: bytes, message: str) -> None:
    with pytest.raises((ProtocolError, IntegrityError, VersionError), match=message):
        decode(delta, TEXT[:1000] if delta[:7] == b"DWCPHDE" and GOOD[:40] != delta[:40] else TEXT[:200_000])


@pytest.mark.parametrize(
    "triple", [(11, 0, 0), (5, 5, 2**62), (0, 10, 1 | 1 << 63), (2**63, 0, 0)], ids=["copy", "seek", "back", "sign"]
)
def test_a_bsdiff_control_that_leads_outside(triple: tuple[int, int, int]) -> None:
    plain = b"".join(number.to_bytes(8, "little") for number in triple) + bytes(10)
    body = (1).to_bytes(4, "little") + (10).to_bytes(4, "little") + bytes(4) + encode_names(plain)
    with pytest.raises(ProtocolError, match="bsdiff body"):
        decode(crafted([(LITERAL, 10, 0)], residue.BSDIFF, 0, body), TEXT[:1000])


@pytest.mark.parametrize("base", [TEXT[:199_999], TEXT[1:200_001]], ids=["size", "content"])
def test_another_base_than_the_delta_was_made_with(base: bytes) -> None:
    with pytest.raises(ProtocolError, match="base"):
        decode(GOOD, base)


def test_lying_lengths_allocate_nothing() -> None:
    head = GOOD[: 7 + 3 + 16 + 16]
    lies = [
        segment.SEGMENT.pack(1, 0, 2**32 - 1, 2**32 - 1, 2**32 - 1, 0),
        segment.SEGMENT.pack(1, 0, 1, 20, 20, 2**32 - 1),
        segment.SEGMENT.pack(1, 0, 100, 2000, 2**31, 0),
    ]
    tracemalloc.start()
    try:
        for lie in lies:
            with pytest.raises(ProtocolError, match="than there may be"):
                decode(head + lie + bytes(100), TEXT[:200_000])
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200))
def test_noise_after_an_honest_header(noise: bytes) -> None:
    with pytest.raises(DwcpError):
        decode(GOOD[: 7 + 3 + 16 + 16] + noise, TEXT[:200_000])
