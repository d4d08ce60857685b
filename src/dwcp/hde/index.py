"""What the holder of a baseline tells of it beyond leaf hashes, and how the sender finds its own content in there.

Body of a BASE_INDEX frame, integers big-endian:

    u32   number of page hashes
    u64   each: XXH3-64 of a page of PAGE bytes of the leaves that were asked for, in their order; the last page of the
          baseline may be shorter, and pages beyond its end are absent
    then, when chunks were asked for, to the end of the body, each content-defined chunk from offset 0 on:
    u32   length
    u64   XXH3-64 of the chunk

64 bits are a hint, not a proof: a leaf put together from a wrong guess fails its own hash and is sent whole.
Chunks are cut by FastCDC (Xia et al., 2020) with the parameters of `chunking`.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import xxhash
from pyfastcdc import FastCDC
from typing_extensions import Buffer

from dwcp.errors import ProtocolError

PAGE = 4096
"""The unit in which memory images, databases and file systems change."""
MIN_AVERAGE_CHUNK = 16 * 1024
"""12 bytes of index for every 16 KiB: 0.07% of the baseline."""
CHUNKS_WANTED = 2**17
"""Chunks grow with the baseline so that an index stays near 1.5 MiB on the wire and 20 MiB in memory."""
SPREAD = 4
"""How much smaller or larger than the average a chunk may be; the last one may be smaller still."""
WINDOW = 8 * 1024 * 1024
"""Bytes of a baseline held while it is cut."""

_CHUNK = struct.Struct(">IQ")
_COUNT = struct.Struct(">I")

SEGMENT = 2 * 1024**3
"""Bytes of an image whose page hashes are told at once: 4 MiB of index, whatever the size of a leaf."""

ReadAt = Callable[[int, int], Buffer]
"""(offset, size) to the bytes there; fewer only at the end."""


def chunking(base_size: int) -> FastCDC:
    """The cutter for a baseline of this size, the same at both ends."""
    average = average_chunk(base_size)
    return FastCDC(avg_size=average, min_size=average // SPREAD, max_size=average * SPREAD)


def average_chunk(base_size: int) -> int:
    average = MIN_AVERAGE_CHUNK
    while average * CHUNKS_WANTED < base_size:
        average *= 2
    return average


def segment_leaves(leaf_size: int) -> int:
    """Leaves whose page hashes are asked for at once."""
    return SEGMENT // leaf_size


def page_hashes(content: Buffer) -> array[int]:
    """XXH3-64 of each page."""
    view = memoryview(content)
    digest = xxhash.xxh3_64_intdigest
    return array("Q", (digest(view[at : at + PAGE]) for at in range(0, len(view), PAGE)))


def cut(read: ReadAt, size: int) -> Iterator[tuple[int, int]]:
    """(length, hash) of each chunk of a baseline, in order, holding WINDOW bytes at a time."""
    cutter = chunking(size)
    window = max(WINDOW, 8 * average_chunk(size))
    at = 0
    while at < size:
        view = memoryview(read(at, min(window, size - at)))
        if not len(view):
            return
        last = at + len(view) >= size
        used = 0
        for chunk in cutter.cut_buf(view):
            # the end of the window is no boundary of the content
            if not last and chunk.offset + chunk.length == len(view) and used:
                break
            yield chunk.length, xxhash.xxh3_64_intdigest(view[chunk.offset : chunk.offset + chunk.length])
            used = chunk.offset + chunk.length
        at += used


def pack_index(pages: array[int], chunks: Iterator[tuple[int, int]]) -> bytes:
    """The body of a BASE_INDEX frame."""
    big_endian = array("Q", pages)
    if sys.byteorder == "little":
        big_endian.byteswap()
    out = bytearray(_COUNT.pack(len(pages)) + big_endian.tobytes())
    for length, digest in chunks:
        out += _CHUNK.pack(length, digest)
    return bytes(out)


@dataclass(frozen=True, slots=True)
class Index:
    """A received index. `chunks` maps a chunk's hash to (offset, length) in the baseline."""

    pages: array[int]
    chunks: dict[int, tuple[int, int]]


def unpack_index(body: bytes, base_size: int) -> Index:
    """Raises ProtocolError where the body is cut short, or names content or chunks that the baseline cannot have."""
    if len(body) < _COUNT.size:
        raise ProtocolError("an index of a baseline is empty")
    (count,) = _COUNT.unpack_from(body)
    chunks_at = _COUNT.size + 8 * count
    if len(body) < chunks_at or (len(body) - chunks_at) % _CHUNK.size:
        raise ProtocolError("an index of a baseline is cut short")
    if (len(body) - chunks_at) // _CHUNK.size > base_size * SPREAD // average_chunk(base_size) + 1:
        raise ProtocolError("an index of a baseline has smaller chunks than are cut")
    pages = array("Q", body[_COUNT.size : chunks_at])
    if sys.byteorder == "little":
        pages.byteswap()
    chunks: dict[int, tuple[int, int]] = {}
    offset = 0
    for length, digest in _CHUNK.iter_unpack(memoryview(body)[chunks_at:]):
        if length == 0 or offset + length > base_size:
            raise ProtocolError("an index of a baseline names content beyond its end")
        chunks.setdefault(digest, (offset, length))
        offset += length
    return Index(pages, chunks)
