"""New content as copies from a base, zeros and literals, a leaf at a time, by looking at both.

From cheap to dear, and the next only where the one before left something:

1. The leaf against the base at the shift (base offset minus new offset) of the last match, and at shift 0: memcmp.
2. Zeros.
3. Page by page at the better of these shifts.
4. What is still left, page by page and chunk by chunk anywhere in the base (`base_index`), each find grown to the byte
   in both directions. The shift of the last one is where the next leaf begins: content that moved as a whole is
   looked up once.
5. The borders of what differs, to the byte.

The index of a large base is made only when there is reason to: a leaf that differs in most of its bytes, or scattered
changes that add up to a WORTH_INDEXING of it. Until then a few dirty pages cost no pass over everything.
"""

from __future__ import annotations

from collections.abc import Callable

from dwcp.hde.base_index import BaseIndex
from dwcp.hde.content import Content
from dwcp.hde.hashes import MAX_LEAF
from dwcp.hde.index import PAGE
from dwcp.hde.operations import COPY, LITERAL, ZERO, Op, append, literal_size

WORTH_INDEXING = 512
"""Part of the base: 2 MiB of scattered pages of 1 GiB, which cost as much to compress as the index to make."""
SMALL_BASE = 16 * 1024 * 1024
"""Bytes of a base that are always indexed when something differs: milliseconds."""
MIN_MATCH = 48
"""Bytes of a find below which an operation costs about as much as it saves."""
MIN_TRIM = 16
"""Bytes alike at the border of a change from which they are copied instead of coded."""
STEP = 4096
"""Bytes that are read first to see how far a find reaches; then twice as many."""

_ZEROS = bytes(MAX_LEAF)
_ZERO_PAGE = bytes(PAGE)


class Matcher:
    """Leaves must come in order of their offsets; some may be left out."""

    def __init__(self, base: Content) -> None:
        self._base = base
        self._index: BaseIndex | None = None
        self._unmatched = 0
        self._shift = 0

    def leaf(self, at: int, leaf: bytes) -> list[Op]:
        """The operations that make `leaf`, which stands at offset `at` of the new content."""
        size = len(leaf)
        old: list[tuple[int, bytes]] = []
        for shift in (self._shift, 0) if self._shift else (0,):
            if at + shift < 0:
                continue
            data = self._base.take(*self._base.clamp(at + shift, size))
            if data == leaf:
                self._shift = shift
                return [(COPY, size, at + shift)]
            old.append((at + shift, data))
        if leaf == _zeros(size):
            return [(ZERO, size, 0)]
        ops: list[Op] = []
        left = size + 1
        for base_at, data in old:
            tried = _by_page(leaf, data, base_at)
            remains = literal_size(tried)
            if remains < left:
                ops, left = tried, remains
        self._unmatched += left
        if left and self._index_is_worth_it(left, size):
            if self._index is None:
                self._index = BaseIndex(self._base)
            ops = self._anywhere(at, leaf, ops, self._index)
        if left:
            ops = self._trimmed(leaf, ops, old)
        if ops[-1][0] == COPY:
            self._shift = ops[-1][2] + ops[-1][1] - at - size
        return ops

    def _index_is_worth_it(self, left: int, size: int) -> bool:
        if not self._base.size:
            return False
        if self._index is not None or self._base.size <= SMALL_BASE:
            return True
        return 2 * left > size or self._unmatched * WORTH_INDEXING > self._base.size

    def _anywhere(self, at: int, leaf: bytes, ops: list[Op], index: BaseIndex) -> list[Op]:
        cuttable = any(kind == LITERAL and length >= 2 * PAGE for kind, length, _ in ops)
        chunks = index.chunks(leaf) if cuttable else []
        out: list[Op] = []
        here = 0
        for kind, length, base in ops:
            if kind == LITERAL and length >= MIN_MATCH:
                self._search(at, leaf, (here, here + length), base - here, chunks, index, out)
            else:
                append(out, kind, length, base)
            here += length
        return out

    def _search(
        self,
        at: int,
        leaf: bytes,
        extent: tuple[int, int],
        near: int,
        chunks: list[tuple[int, int]],
        index: BaseIndex,
        out: list[Op],
    ) -> None:
        """Appends the operations for one extent of the leaf that did not match in place. `near` + position in the leaf
        is where its like would be in the base."""
        done, end = extent
        view = memoryview(leaf)
        finds = [find for find in chunks if extent[0] <= find[0] < end]
        for page in range(done + -(at + done) % PAGE, end - PAGE + 1, PAGE):
            base = index.page(view[page : page + PAGE])
            if base is not None:
                finds.append((page, base))
        for position, base in sorted(finds):
            if position < done:
                # a match may have grown a few bytes into the next by accident
                if position + PAGE < done + MIN_MATCH or base - position == near:
                    continue
                position, base = done, base + done - position
            first, last = self._grow(leaf, position, base, done, end)
            if last - first < MIN_MATCH:
                continue
            append(out, LITERAL, first - done, max(0, near + done))
            near = base - position
            append(out, COPY, last - first, near + first)
            done = last
        append(out, LITERAL, end - done, max(0, near + done))

    def _trimmed(self, leaf: bytes, ops: list[Op], old: list[tuple[int, bytes]]) -> list[Op]:
        """What differs, less what is alike at its borders: a byte that changed is not a page of literals.
        `old`: (offset, content) of the base that has been read already."""

        def take(offset: int, size: int) -> bytes:
            for start, data in old:
                if start <= offset and offset + size <= start + len(data):
                    return data[offset - start : offset - start + size]
            return self._base.take(*self._base.clamp(offset, size))

        out: list[Op] = []
        at = 0
        for kind, length, base in ops:
            if kind == LITERAL:
                edge = min(length, PAGE)
                head = take(base, edge)
                front = _worth(_same(leaf[at : at + edge], head))
                edge = min(length - front, PAGE)
                tail = 0
                if base + length <= self._base.size:
                    tail_of = take(base + length - edge, edge)
                    tail = _worth(_same_end(leaf[at + length - edge : at + length], tail_of))
                append(out, COPY, front, base)
                append(out, LITERAL, length - front - tail, base + front)
                append(out, COPY, tail, base + length - tail)
            else:
                append(out, kind, length, base)
            at += length
        return out

    def _grow(self, leaf: bytes, position: int, base: int, low: int, high: int) -> tuple[int, int]:
        """The largest extent of the leaf around `position`, within (low, high), that is like the base around `base`."""
        last, step = position, STEP
        while last < high:
            length = min(step, high - last, self._base.size - base - (last - position))
            same = _same(leaf[last : last + length], self._base.take(base + last - position, length))
            last += same
            if same < length or not length:
                break
            step *= 2
        if last - position < MIN_MATCH:
            return position, position
        first, step = position, STEP
        while first > low:
            length = min(step, first - low, base - (position - first))
            before = self._base.take(base - (position - first) - length, length)
            same = _same_end(leaf[first - length : first], before)
            first -= same
            if same < length or not length:
                break
            step *= 2
        return first, last


def _by_page(leaf: bytes, old: bytes, base_at: int) -> list[Op]:
    """Operations for a leaf from the content at one shift, `old`, which may be shorter."""
    ops: list[Op] = []
    size = len(leaf)
    for block in range(0, size, 16 * PAGE):
        end = min(block + 16 * PAGE, size)
        if leaf[block:end] == old[block:end]:
            append(ops, COPY, end - block, base_at + block)
            continue
        for at in range(block, end, PAGE):
            page = leaf[at : at + PAGE]
            if page == old[at : at + PAGE]:
                kind = COPY
            elif page == _ZERO_PAGE:
                kind = ZERO
            else:
                kind = LITERAL
            append(ops, kind, len(page), base_at + at)
    return ops


def _worth(length: int) -> int:
    """0 for what an operation of its own would cost more than."""
    return length if length >= MIN_TRIM else 0


def _zeros(size: int) -> bytes:
    return _ZEROS if size == len(_ZEROS) else _ZEROS[:size]


def _same(one: bytes, other: bytes) -> int:
    """Length of the common beginning."""
    return _longest(min(len(one), len(other)), lambda first, last: one[first:last] == other[first:last])


def _same_end(one: bytes, other: bytes) -> int:
    """Length of the common end."""
    a, b = len(one), len(other)
    return _longest(min(a, b), lambda first, last: one[a - last : a - first] == other[b - last : b - first])


def _longest(most: int, same: Callable[[int, int], bool]) -> int:
    """The largest n up to `most` for which all within (0, n) is the same: steps that double, then halves."""
    known, step = 0, 64
    while known < most:
        reach = min(most, known + step)
        if not same(known, reach):
            break
        known, step = reach, step * 2
    else:
        return known
    bad = min(most, known + step)
    while bad - known > 1:
        middle = (known + bad) // 2
        if same(known, middle):
            known = middle
        else:
            bad = middle
    return known
