"""A delta of new content against a base that is at hand, as a stream of bytes.

Reads both once, a leaf at a time, and some of the base again where content moved; holds one segment's literals and what
they replace. Leaves that stand unchanged are not hashed when the digests of the base's leaves are known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from dwcp.errors import UsageError
from dwcp.hde import residue
from dwcp.hde.content import Content, leaf_digests
from dwcp.hde.hashes import XXH3, Hash, leaf_size, zero_digest
from dwcp.hde.index import PAGE
from dwcp.hde.matching import Matcher
from dwcp.hde.operations import COPY, LITERAL, ZERO, Op, aligned, append, replaced
from dwcp.hde.segment import MAX_HISTORY, MAX_ID, MAX_OPS, MAX_REPLACED, Header, Segment, pack_end

SECONDS = 0.45
"""What coding a segment's literals may take if the caller does not say: level 5 for a full segment."""
SEGMENT = 32 * 1024 * 1024
"""Bytes of literals after which a segment ends: half of what the format allows, since several are in memory."""
PENDING = 1
"""Segments that may be coded elsewhere while matching goes on."""

Submit = Callable[[Callable[[], Segment]], Callable[[], Segment]]
"""Begins a piece of work, on another thread, say, and gives a function that waits for its result."""


def at_once(work: Callable[[], Segment]) -> Callable[[], Segment]:
    """The `Submit` that does it here and now."""
    done = work()
    return lambda: done


@dataclass(slots=True)
class Statistics:
    """Of one delta, in bytes of new content but for `coded`, which is bytes of the delta's bodies."""

    copied: int = 0
    zeros: int = 0
    literal: int = 0
    coded: int = 0
    segments: int = 0
    codings: dict[int, int] = field(default_factory=dict)
    """Literal bytes by coding (`residue`)."""

    def add(self, segment: Segment) -> None:
        self.segments += 1
        literal = 0
        for kind, length, _ in segment.ops:
            if kind == COPY:
                self.copied += length
            elif kind == ZERO:
                self.zeros += length
            else:
                literal += length
        self.literal += literal
        self.coded += len(segment.body)
        if literal:
            self.codings[segment.coding] = self.codings.get(segment.coding, 0) + literal


class DeltaEncoder:
    """One delta. `leaves` and `root` are those of the new content when `run` is through.

    `base_leaves`: digests of the base's leaves where they are known, else the base is hashed as it is read.
    `dirty`: (offset, size) ranges outside of which the new content is known to be that of the base. They must be told
    whole: what is wrong here is found at the other end only, by the root of the base's leaves and the new ones.
    `budget`: seconds of one core for coding a segment's literals. `submit`: who does that; a thread of the caller's
    takes it off matching, for codecs let others run.
    """

    def __init__(
        self,
        base: Content,
        new: Content,
        *,
        base_id: bytes = b"",
        hash_: Hash = XXH3,
        algorithm: str = "auto",
        budget: float | None = None,
        base_leaves: bytes | None = None,
        dirty: Iterable[tuple[int, int]] | None = None,
        submit: Submit = at_once,
    ) -> None:
        if algorithm not in residue.ALGORITHMS:
            raise UsageError(f"unknown delta algorithm {algorithm!r}; known are {', '.join(residue.ALGORITHMS)}")
        if len(base_id) > MAX_ID:
            raise UsageError(f"a base's name has more than {MAX_ID} bytes")
        self._base, self._new = base, new
        self._base_id = base_id
        self._hash = hash_
        self._algorithm = algorithm
        self._budget = SECONDS if budget is None else budget
        self._submit = submit
        self._pending: deque[Callable[[], Segment]] = deque()
        self._base_leaves = leaf_digests(base, hash_) if base_leaves is None else base_leaves
        self._dirty = None if dirty is None else _leaves_of(dirty, new.size)
        self._matcher = Matcher(base)
        self._ops: list[Op] = []
        self._literal = bytearray()
        self._history = b""
        self.statistics = Statistics()
        self.leaves = b""
        self.root = b""

    def run(self) -> Iterator[bytes]:
        """The delta, piece by piece. Raises StorageError when content cannot be read."""
        base, new, hash_ = self._base, self._new, self._hash
        base_root = hash_.root(self._base_leaves, base.size)
        yield Header(hash_, self._base_id, base.size, base_root, new.size).pack()
        leaves = bytearray()
        step = leaf_size(new.size)
        same_leaves = step == leaf_size(base.size)
        for offset, size in new.leaves():
            known = b""
            if same_leaves and offset + size <= base.size and (size == step or new.size == base.size):
                at = offset // step * hash_.size
                known = self._base_leaves[at : at + hash_.size]
            leaf = None
            if known and self._dirty is not None and offset // step not in self._dirty:
                ops = [(COPY, size, offset)]
            elif new.is_hole(offset, size):
                ops = [(ZERO, size, 0)]
            else:
                leaf = new.take(offset, size)
                ops = self._matcher.leaf(offset, leaf)
            if known and ops == [(COPY, size, offset)]:
                leaves += known
            elif leaf is None or ops == [(ZERO, size, 0)]:
                leaves += zero_digest(hash_.name, size)
            else:
                leaves += hash_.digest(leaf)
            if len(self._literal) + size > SEGMENT or len(self._ops) + size // PAGE * 3 + 1 > MAX_OPS:
                yield from self._flush()
            self._add(ops, leaf)
        yield from self._flush()
        yield from self._coded(0)
        self.leaves = bytes(leaves)
        self.root = hash_.root(leaves, new.size)
        yield pack_end(self.root)

    def _add(self, ops: list[Op], leaf: bytes | None) -> None:
        at = 0
        for kind, length, base in ops:
            append(self._ops, kind, length, base)
            if kind == LITERAL and leaf is not None:
                self._literal += leaf[at : at + length]
            at += length

    def _flush(self) -> Iterator[bytes]:
        if not self._ops:
            return
        ops, literal = self._ops, bytes(self._literal)
        self._ops, self._literal = [], bytearray()
        of = residue_of(ops, literal, self._base, self._history)
        self._history = literal[-MAX_HISTORY:] or self._history
        self._pending.append(self._submit(lambda: Segment(ops, *residue.encode(of, self._algorithm, self._budget))))
        yield from self._coded(PENDING)

    def _coded(self, left: int) -> Iterator[bytes]:
        while len(self._pending) > left:
            segment = self._pending.popleft()()
            self.statistics.add(segment)
            yield segment.pack()


def residue_of(ops: list[Op], literal: bytes, base: Content, history: bytes) -> residue.Residue:
    """What `residue` needs of a segment; the base is read when it is asked for."""

    def prefix() -> bytes:
        return b"".join(base.take(at, size) for at, size in replaced(ops, base.size, MAX_REPLACED))

    def twin() -> bytes:
        return b"".join(base.take(at, size).ljust(length, b"\0") for at, size, length in aligned(ops, base.size))

    return residue.Residue(literal, prefix, history, twin)


def _leaves_of(dirty: Iterable[tuple[int, int]], size: int) -> set[int]:
    """The numbers of the leaves that ranges touch. Raises UsageError for a range that is not within the content."""
    step = leaf_size(size)
    leaves: set[int] = set()
    for offset, length in dirty:
        if offset < 0 or length < 0 or offset + length > size:
            raise UsageError(f"{length} dirty bytes at offset {offset} are not within content of {size} bytes")
        if length:
            leaves.update(range(offset // step, (offset + length - 1) // step + 1))
    return leaves
