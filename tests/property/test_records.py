"""The transaction log's records: what was written is read, whole or by the byte; what is cut or damaged is told."""

from __future__ import annotations

import datetime
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwcp.store.records import (
    MAX_LINE,
    Damage,
    DamagedError,
    LogDecoder,
    Record,
    Value,
    decode,
    encode,
    seal,
    tidy,
    unseal,
)

many = settings(max_examples=300, deadline=None)

texts = st.text(max_size=40)
values = st.one_of(texts, st.integers(), st.floats(allow_nan=True), st.booleans(), st.lists(texts, max_size=5))
details = st.dictionaries(texts, values, max_size=5)
times = st.datetimes(datetime.datetime(1970, 1, 2), datetime.datetime(9998, 1, 1), timezones=st.just(datetime.UTC))


@st.composite
def logs(draw: st.DrawFn) -> list[Record]:
    first = draw(st.integers(1, 10**12))
    return [
        Record(first + number, draw(times), "run", draw(texts), draw(texts), str(tidy(draw(texts))), _tidied(detail))
        for number, detail in enumerate(draw(st.lists(details, min_size=1, max_size=6)))
    ]


def _tidied(detail: dict[str, Value]) -> dict[str, Value]:
    return {str(tidy(key)): tidy(value) for key, value in detail.items()}


def written(records: Iterable[Record]) -> bytes:
    return b"".join(encode(record) for record in records)


def read(raw: bytes, sizes: Iterable[int] = ()) -> list[Record | Damage]:
    """Fed in pieces of `sizes`, then the rest."""
    decoder, found, at = LogDecoder(None), [], 0
    for size in sizes:
        found += decoder.feed(raw[at : at + size])
        at += size
    found += decoder.feed(raw[at:])
    left = decoder.close()
    assert decoder.consumed == len(raw) - (left.size if left else 0)
    return [*found, left] if left is not None else found


@many
@given(logs(), st.lists(st.integers(1, 50), max_size=30))
def test_what_was_written_is_read_in_pieces_of_any_size(records: list[Record], sizes: list[int]) -> None:
    raw = written(records)
    assert read(raw) == read(raw, sizes) == read(raw, [1] * len(raw)) == records


@many
@given(logs(), st.data())
def test_a_log_that_is_cut_anywhere_gives_all_that_is_whole_and_says_what_is_torn(
    records: list[Record], data: st.DataObject
) -> None:
    raw = written(records)
    at = data.draw(st.integers(0, len(raw)))
    whole = [record for number, record in enumerate(records) if len(written(records[: number + 1])) <= at]
    left = at - len(written(whole))
    *found, last = [*read(raw[:at]), None] if left == 0 else read(raw[:at])
    assert found == whole
    assert last is None or last == Damage(at - left, left, last.reason, torn=True)  # type: ignore[union-attr]


@many
@given(logs(), st.data())
def test_a_flipped_bit_is_told_and_costs_only_the_records_that_it_hits(
    records: list[Record], data: st.DataObject
) -> None:
    raw = bytearray(written(records))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= 1 << data.draw(st.integers(0, 7))
    found = read(bytes(raw))
    good = [entry for entry in found if isinstance(entry, Record)]
    damage = [entry for entry in found if isinstance(entry, Damage)]
    assert damage
    assert any(entry.offset <= at < entry.offset + entry.size for entry in damage)
    # a newline that is none any more joins two lines
    assert len(records) - 2 <= len(good) < len(records)
    assert all(record in records for record in good)


@many
@given(logs(), st.data())
def test_a_line_that_is_gone_or_comes_twice_is_told(records: list[Record], data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(records) - 1))
    gone = [*records[:number], *records[number + 1 :]]
    between = 0 < number < len(records) - 1
    assert any(isinstance(entry, Damage) for entry in read(written(gone))) == between
    twice = [*records[: number + 1], *records[number:]]
    assert any(isinstance(entry, Damage) for entry in read(written(twice)))


@many
@given(st.binary(max_size=300), st.lists(st.integers(1, 40), max_size=20), st.booleans())
def test_any_bytes_give_records_or_damage_and_all_are_accounted_for(raw: bytes, sizes: list[int], dress: bool) -> None:
    if dress:
        raw = seal(raw.replace(b"\n", b" "))
    found = read(raw, sizes)
    assert found == read(raw)
    sized = sum(entry.size for entry in found if isinstance(entry, Damage))
    assert sized == len(raw) if not any(isinstance(entry, Record) for entry in found) else sized < len(raw)


def test_a_line_of_any_length_is_skipped_in_bounded_memory() -> None:
    record = Record(7, datetime.datetime.now(datetime.UTC), "run", "node", "start")
    decoder = LogDecoder(None)
    for _ in range(40):
        assert decoder.feed(b"x" * 50_000) == []
        assert len(decoder._pending) <= MAX_LINE
    found = decoder.feed(b"\n" + encode(record))
    assert found == [Damage(0, 2_000_001, "2000001 bytes without a newline"), record]


@many
@given(st.binary(max_size=100).map(lambda raw: raw.replace(b"\n", b"")), st.data())
def test_a_sealed_line_is_what_was_sealed_or_nothing(payload: bytes, data: st.DataObject) -> None:
    line = bytearray(seal(payload)[:-1])
    assert unseal(bytes(line)) == payload
    line[data.draw(st.integers(0, len(line) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DamagedError):
        unseal(bytes(line))


long = st.text(st.characters(), min_size=1, max_size=3).map(lambda text: text * 2000)


@many
@given(st.lists(long, max_size=4), st.lists(long, max_size=40), st.integers(), st.floats())
def test_whatever_is_told_fits_when_it_is_tidied(texts: list[str], listed: list[str], number: int, real: float) -> None:
    detail: dict[str, Value] = {
        "listed": listed,
        "number": number,
        "real": real,
        **dict(zip("abcd", texts, strict=False)),
    }
    tidied = {key: tidy(value) for key, value in detail.items()}
    record = Record(1, datetime.datetime.now(datetime.UTC), "run", "transfer", "end", "peer", tidied)
    assert decode(encode(record)[:-1]) == record
