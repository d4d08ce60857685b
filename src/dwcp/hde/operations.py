"""Operations that make new content from a base, and which part of the base a literal replaces.

An operation is (kind, length, base offset). COPY takes bytes of the base; ZERO needs neither base nor bytes; LITERAL
takes the next bytes of the segment's literals, and its base offset says where in the base its like is to be expected:
the content at the same place of the same shift. They follow each other without gaps.
"""

from __future__ import annotations

from collections.abc import Iterable

COPY, ZERO, LITERAL = 0, 1, 2
Op = tuple[int, int, int]

REPLACED_SLACK = 64 * 1024
"""Bytes by which old content may be longer than the literal that replaces it and still be wanted whole."""


def append(ops: list[Op], kind: int, length: int, base: int) -> None:
    """Adds an operation, joined to the one before where it continues it."""
    if not length:
        return
    if ops:
        last_kind, last_length, last_base = ops[-1]
        if last_kind == kind and (kind == ZERO or last_base + last_length == base):
            ops[-1] = (kind, last_length + length, last_base)
            return
    ops.append((kind, length, 0 if kind == ZERO else base))


def literal_size(ops: Iterable[Op]) -> int:
    return sum(length for kind, length, _ in ops if kind == LITERAL)


def replaced(ops: list[Op], base_size: int, limit: int) -> list[tuple[int, int]]:
    """(offset, size) of the base's content that the literals stand for, ascending, disjoint, `limit` bytes at most.

    Where the next copy begins a little further on in the base than the literal is long, all between is meant: content
    that became shorter. Both ends compute this from the operations, so that it need not be sent.
    """
    wanted: list[tuple[int, int]] = []
    following = -1
    for kind, length, base in reversed(ops):
        if kind == LITERAL:
            end = base + length
            if end < following <= base + 4 * length + REPLACED_SLACK:
                end = following
            wanted.append((base, min(end, base_size)))
        following = base if kind == COPY else -1
    merged: list[list[int]] = []
    for start, end in sorted(wanted):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        elif start < end:
            merged.append([start, end])
    ranges: list[tuple[int, int]] = []
    for start, end in merged:
        size = min(end - start, limit)
        if size > 0:
            ranges.append((start, size))
            limit -= size
    return ranges


def aligned(ops: Iterable[Op], base_size: int) -> list[tuple[int, int, int]]:
    """(offset, size in the base, length of the literal) for each literal: what lies beyond the base counts as zeros."""
    return [
        (min(base, base_size), max(0, min(length, base_size - base)), length)
        for kind, length, base in ops
        if kind == LITERAL
    ]
