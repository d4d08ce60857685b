"""Where in a base some content is: by pages of PAGE bytes at multiples of it, and by how content-defined chunks begin.

A chunk is known by its first bytes alone, half of what chunks have on average: one that changed further on is found
too, and `matching` sees how far a find reaches. On a database whose log holds images of its pages, that left half of
what whole chunks did.

Built in one pass, a window at a time. Memory is bounded whatever the base's size: above MAX_PAGES pages only every
second, fourth... is known (a run of pages that moved is found by one of them, and grown from there), and chunks become
larger. 64-bit hashes are hints: whoever uses a place compares the bytes.
"""

from __future__ import annotations

import xxhash
from pyfastcdc import FastCDC

from dwcp.hde.content import Content
from dwcp.hde.index import MAX_AVERAGE_CHUNK, PAGE, SPREAD

MAX_PAGES = 2**20
"""4 GiB at the full rate; some 110 bytes each in memory."""
MIN_AVERAGE_CHUNK = 512
"""Bytes: a database's pages are found in its log, to which they were copied at any place."""
MAX_CHUNKS = 3 * 2**19
"""768 MiB of base in the smallest chunks; some 130 bytes each in memory."""
WINDOW = 1024 * 1024
"""Bytes of the base held while they are hashed and cut: stays in the cache for both."""


class BaseIndex:
    """Finds pages and chunks of a base."""

    def __init__(self, base: Content) -> None:
        self._pages: dict[int, int] = {}
        self._chunks: dict[int, int] = {}
        average = MIN_AVERAGE_CHUNK
        while base.size // average > MAX_CHUNKS and average < MAX_AVERAGE_CHUNK:
            average *= 2
        self._cutter = FastCDC(avg_size=average, min_size=average // SPREAD, max_size=average * SPREAD)
        self._beginning = average // 2
        self._window = max(WINDOW, 16 * average)
        step = PAGE
        while base.size // step > MAX_PAGES:
            step *= 2
        self._build(base, step)

    def _build(self, base: Content, step: int) -> None:
        digest = xxhash.xxh3_64_intdigest
        zeros = digest(bytes(PAGE))
        at = 0
        pages, chunks = self._pages, self._chunks
        while at < base.size:
            size = min(self._window, base.size - at)
            if base.is_hole(at, size):
                at += size
                continue
            # pages may reach beyond the window, and windows begin anywhere
            view = memoryview(base.take(at, min(size + PAGE, base.size - at)))
            used = 0
            for chunk in self._cutter.cut_buf(view[:size]):
                offset, length = chunk.offset, chunk.length
                # the end of the window is no boundary of the content
                if used and offset + length == size and at + size < base.size:
                    break
                chunks.setdefault(digest(view[offset : offset + min(length, self._beginning)]), at + offset)
                used = offset + length
            for offset in range(-at % step, min(used, len(view) - PAGE + 1), step):
                pages.setdefault(digest(view[offset : offset + PAGE]), at + offset)
            at += used
        pages.pop(zeros, None)

    def page(self, page: memoryview) -> int | None:
        """Offset in the base of what may be this page."""
        return self._pages.get(xxhash.xxh3_64_intdigest(page))

    def chunks(self, data: bytes) -> list[tuple[int, int]]:
        """(offset in `data`, offset in the base) of what may be chunks of the base."""
        view = memoryview(data)
        get, digest = self._chunks.get, xxhash.xxh3_64_intdigest
        found = []
        for chunk in self._cutter.cut_buf(data):
            offset = chunk.offset
            base = get(digest(view[offset : offset + min(chunk.length, self._beginning)]))
            if base is not None:
                found.append((offset, base))
        return found
