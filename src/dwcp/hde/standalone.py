"""A segment that stands alone: some leaves of a new version, against a base that both ends hold.

It is coded without the segments before it, so any stream carries any of them, in any order. docs/delta-format.md has
the layout.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dwcp.hde import residue
from dwcp.hde.content import Content
from dwcp.hde.encoder import residue_of
from dwcp.hde.matching import Matcher
from dwcp.hde.operations import COPY, LITERAL, Op, append, literal_size
from dwcp.hde.segment import Segment

MAX_CONTENT = 8 * 1024 * 1024
"""Bytes of new content that a sender puts into one, unless a leaf alone is larger: a coder's memory is several times
that."""


@dataclass(frozen=True, slots=True)
class Matched:
    """Leaves, end to end, as operations, and the bytes that these lack."""

    ops: list[Op]
    literal: bytes


def match(matcher: Matcher, leaves: Iterable[tuple[int, bytes]]) -> Matched:
    """`leaves`: (offset in the new version, content), ascending."""
    ops: list[Op] = []
    literal = bytearray()
    for offset, leaf in leaves:
        at = 0
        for kind, length, base in matcher.leaf(offset, leaf):
            append(ops, kind, length, base)
            if kind == LITERAL:
                literal += leaf[at : at + length]
            at += length
    return Matched(ops, bytes(literal))


def encode(matched: Matched, base: Content, algorithm: str, budget: float) -> Segment:
    """`algorithm` and `budget` (seconds): see `residue.encode`."""
    of = residue_of(matched.ops, matched.literal, base, b"")
    return Segment(matched.ops, *residue.encode(of, algorithm, budget))


def decode(segment: Segment, base: Content) -> memoryview:
    """The leaves, end to end: `segment.span` bytes. Raises ProtocolError; StorageError where the base cannot be read.

    What comes out of another base than the segment was made with is anything: compare with the leaves' digests.
    """
    size = literal_size(segment.ops)
    literal = b""
    if size or segment.body:
        of = residue_of(segment.ops, b"", base, b"")
        literal = residue.decode(segment.coding, segment.parameter, segment.body, size, of)
    out = memoryview(bytearray(segment.span))
    at = used = 0
    for kind, length, offset in segment.ops:
        if kind == COPY:
            out[at : at + length] = base.take(offset, length)
        elif kind == LITERAL:
            out[at : at + length] = literal[used : used + length]
            used += length
        at += length
    return out
