"""A journal promises only what was written to it, wherever it was cut or damaged."""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwcp.store import journal
from dwcp.store.journal import Journal

ABOUT: dict[str, str | int] = {
    "target": "'x'",
    "size": 5_000_000,
    "mtime_ns": 7,
    "leaf_size": 1048576,
    "checksum": "xxh3",
}
OTHER = {**ABOUT, "size": 5_000_001}
records = st.dictionaries(st.integers(0, 2**32 - 1), st.binary(min_size=16, max_size=16), max_size=12)
many = settings(max_examples=100, deadline=None)


@contextmanager
def held(raw: bytes = b"") -> Iterator[int]:
    with tempfile.TemporaryFile() as file:
        file.write(raw)
        file.flush()
        # as staging opens it
        fd = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDWR | os.O_APPEND)
        try:
            yield fd
        finally:
            os.close(fd)


def written(leaves: dict[int, bytes]) -> bytes:
    with held() as fd:
        made = Journal(fd, 16)
        made.begin(ABOUT)
        for leaf, digest in leaves.items():
            made.add(leaf, digest)
        return os.pread(fd, 100_000, 0)


@many
@given(records)
def test_what_was_written_is_read(leaves: dict[int, bytes]) -> None:
    with held(written(leaves)) as fd:
        assert Journal(fd, 16).read(ABOUT) == leaves
        assert Journal(fd, 16).read(OTHER) is None


@many
@given(records, st.data())
def test_a_cut_or_damaged_journal_promises_less_and_can_be_continued(
    leaves: dict[int, bytes], data: st.DataObject
) -> None:
    raw = bytearray(written(leaves))
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw))) :]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with held(bytes(raw)) as fd:
        opened = Journal(fd, 16)
        promised = opened.read(ABOUT)
        if promised is None:
            opened.begin(ABOUT)
            promised = {}
        assert promised.items() <= leaves.items()
        opened.add(2**31, b"after the damage")
        assert Journal(fd, 16).read(ABOUT) == {**promised, 2**31: b"after the damage"}


@many
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_no_journal_or_some_promises(raw: bytes, dressed: bool) -> None:
    """`dressed`: with a header whose check is right, as whoever can write to the staging directory could make it."""
    if dressed:
        raw = journal._HEADER.pack(journal.MAGIC, len(raw), journal._check(raw)) + raw
    with held(raw) as fd:
        assert Journal(fd, 16).read(ABOUT) is None


@many
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_absurd_header_lengths_are_not_believed(size: int, check: int) -> None:
    with held(struct.pack(">8sII", journal.MAGIC, size, check)) as fd:
        assert Journal(fd, 16).read(ABOUT) is None


def test_a_record_that_the_disk_takes_only_half_of_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with held() as fd:
        made = Journal(fd, 16)
        made.begin(ABOUT)
        original = os.write
        monkeypatch.setattr("dwcp.store.journal.os.write", lambda fd, data: original(fd, data[:5]))
        with pytest.raises(OSError, match="No space left"):
            made.add(0, bytes(16))
