"""One leaf as copies from a baseline and literal bytes, and back.

An operation is (offset in the baseline, length), or (LITERAL, length). Operations follow each other without gaps and
sum up to the leaf.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable

import xxhash

from dwcp.errors import ProtocolError
from dwcp.hde.index import PAGE, Index, chunking

LITERAL = -1
Op = tuple[int, int]

ReadInto = Callable[[int, memoryview], int]
"""(offset in the baseline, buffer to fill) to the number of bytes read."""


def in_place(leaf: memoryview, leaf_offset: int, base_pages: array[int], first_page: int) -> list[Op]:
    """Keeps each page that the baseline has at the same place. `base_pages[first_page]` is the leaf's first page."""
    ops: list[Op] = []
    digest = xxhash.xxh3_64_intdigest
    for number, at in enumerate(range(0, len(leaf), PAGE)):
        page = leaf[at : at + PAGE]
        known = first_page + number
        same = known < len(base_pages) and base_pages[known] == digest(page)
        _append(ops, leaf_offset + at if same else LITERAL, len(page))
    return ops


def moved(
    window: memoryview, window_offset: int, leaf_offset: int, leaf_size: int, base_size: int, index: Index
) -> list[Op]:
    """Finds the leaf's content anywhere in the baseline.

    `window` holds the leaf with some content before and after it (`margin`), so that cutting falls into step with the
    baseline's chunks before the leaf begins, and a chunk that crosses its border is still recognised.
    """
    ops: list[Op] = []
    start, end = leaf_offset - window_offset, leaf_offset - window_offset + leaf_size
    for chunk in chunking(base_size).cut_buf(window):
        first, last = max(chunk.offset, start), min(chunk.offset + chunk.length, end)
        if first >= last:
            continue
        found = index.chunks.get(xxhash.xxh3_64_intdigest(window[chunk.offset : chunk.offset + chunk.length]))
        if found is not None and found[1] == chunk.length:
            _append(ops, found[0] + first - chunk.offset, last - first)
        else:
            _append(ops, LITERAL, last - first)
    return ops


def literal_size(ops: Iterable[Op]) -> int:
    """Bytes of the leaf that are not in the baseline."""
    return sum(length for offset, length in ops if offset == LITERAL)


def literals(leaf: memoryview, ops: Iterable[Op]) -> bytes:
    """The literal bytes, end to end."""
    parts = []
    at = 0
    for offset, length in ops:
        if offset == LITERAL:
            parts.append(leaf[at : at + length])
        at += length
    return b"".join(parts)


def assemble(ops: Iterable[Op], literal: memoryview, out: memoryview, read_base: ReadInto) -> None:
    """Fills `out`, a whole leaf. Raises ProtocolError where the operations don't fit leaf, literal or baseline."""
    at = used = 0
    for offset, length in ops:
        if at + length > len(out):
            raise ProtocolError("a delta is longer than its leaf")
        target = out[at : at + length]
        if offset == LITERAL:
            if used + length > len(literal):
                raise ProtocolError("a delta uses more literal bytes than came with it")
            target[:] = literal[used : used + length]
            used += length
        elif read_base(offset, target) != length:
            raise ProtocolError("a delta refers to content beyond the end of its baseline")
        at += length
    if at != len(out) or used != len(literal):
        raise ProtocolError("a delta does not add up to its leaf")


def _append(ops: list[Op], offset: int, length: int) -> None:
    """Adds an operation, joined to the one before where it continues it."""
    if ops:
        last_offset, last_length = ops[-1]
        if (offset == LITERAL) == (last_offset == LITERAL) and (
            offset == LITERAL or last_offset + last_length == offset
        ):
            ops[-1] = (last_offset, last_length + length)
            return
    ops.append((offset, length))
