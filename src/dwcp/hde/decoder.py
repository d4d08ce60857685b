"""New content from a delta and its base, a leaf at a time.

The delta is hostile until its trailer's root is that of what was made: whoever stores the leaves as they come must not
use them before `run` is through. It costs at most `max_size` bytes of output, one segment (`segment.MAX_LITERAL` for
each of body, literals and base content, MAX_OPS operations) and one leaf in memory, and time in proportion.
"""

from __future__ import annotations

from collections.abc import Iterator

from dwcp.errors import IntegrityError, ProtocolError
from dwcp.hde import residue
from dwcp.hde.content import Content, leaf_digests
from dwcp.hde.encoder import Statistics, residue_of
from dwcp.hde.hashes import leaf_size, zero_digest
from dwcp.hde.operations import COPY, ZERO, literal_size
from dwcp.hde.segment import MAX_HISTORY, Segment, Take, read_header, read_segment

Leaf = tuple[int, bytes | bytearray | None]
"""(size, content); None for zeros."""


class DeltaDecoder:
    """One delta. `header` is known at once, so that the caller can find the base. Raises ProtocolError.

    `take(n)` gives the next n bytes of the delta, fewer only at its end.
    """

    def __init__(self, take: Take) -> None:
        self._take = take
        self.header = read_header(take)
        self.statistics = Statistics()
        self.leaves = b""
        self._history = b""

    def run(self, base: Content, *, max_size: int, base_leaves: bytes | None = None) -> Iterator[Leaf]:
        """The new content. `base_leaves`: digests of the base's leaves where they are known; else it is read once more.

        Raises ProtocolError for another base than the delta was made with, for content beyond `max_size` and for what
        no encoder makes; IntegrityError when what came out is not what was put in.
        """
        header = self.header
        if header.size > max_size:
            raise ProtocolError(f"a delta makes {header.size} bytes, and {max_size} are allowed here")
        if base.size != header.base_size:
            raise ProtocolError(f"a delta needs a base of {header.base_size} bytes, and this one has {base.size}")
        known = leaf_digests(base, header.hash) if base_leaves is None else base_leaves
        if header.hash.root(known, base.size) != header.base_root:
            raise ProtocolError("a delta was made with another base: its hash is not that of this one")
        leaves = bytearray()
        assembly = _Assembly(header.size)
        at = 0
        while isinstance(part := read_segment(self._take, header, at), Segment):
            self.statistics.add(part)
            for leaf, original in self._apply(part, base, assembly):
                leaves += self._digest(leaf, original, known, base)
                yield leaf
            at += part.span
        if at != header.size:
            raise ProtocolError(f"a delta makes {at} bytes and promised {header.size}")
        if header.hash.root(leaves, header.size) != part:
            raise IntegrityError("what was made from a delta and its base is not what the delta was made of")
        if self._take(1):
            raise ProtocolError("a delta goes on after its end")
        self.leaves = bytes(leaves)

    def _apply(self, segment: Segment, base: Content, assembly: _Assembly) -> Iterator[tuple[Leaf, int]]:
        size = literal_size(segment.ops)
        literal = memoryview(b"")
        if size or segment.body:
            coded = residue_of(segment.ops, b"", base, self._history)
            decoded = residue.decode(segment.coding, segment.parameter, segment.body, size, coded)
            self._history = decoded[-MAX_HISTORY:] or self._history
            literal = memoryview(decoded)
        used = 0
        for kind, length, offset in segment.ops:
            done = 0
            while done < length:
                piece = assembly.room(length - done)
                if kind == ZERO:
                    leaf = assembly.zeros(piece)
                elif kind == COPY:
                    leaf = assembly.add(base.take(offset + done, piece), offset + done)
                else:
                    leaf = assembly.add(literal[used : used + piece], -1)
                    used += piece
                done += piece
                if leaf is not None:
                    yield leaf

    def _digest(self, leaf: Leaf, original: int, known: bytes, base: Content) -> bytes:
        """`original`: offset in the base of a leaf that is one copy, else -1."""
        header = self.header
        size, data = leaf
        if data is None:
            return zero_digest(header.hash.name, size)
        step = leaf_size(header.size)
        whole = size == step or original + size == base.size
        if original >= 0 and step == leaf_size(base.size) and not original % step and whole:
            at = original // step * header.hash.size
            return known[at : at + header.hash.size]
        return header.hash.digest(data)


class _Assembly:
    """Puts pieces together to leaves. A leaf that is one piece is passed on as it is."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._step = leaf_size(size)
        self._buffer = bytearray()
        self._zeros = 0
        """Of a leaf that has had nothing else yet; the buffer is empty then."""

    def room(self, wanted: int) -> int:
        """How much of `wanted` the present leaf takes."""
        return min(wanted, self._size() - self._filled())

    def _size(self) -> int:
        return min(self._step, self._left)

    def _filled(self) -> int:
        return len(self._buffer) + self._zeros

    def zeros(self, size: int) -> tuple[Leaf, int] | None:
        if self._buffer:
            self._buffer += bytes(size)
            return self._full()
        self._zeros += size
        return self._full()

    def add(self, piece: bytes | memoryview, original: int) -> tuple[Leaf, int] | None:
        if not self._filled() and len(piece) == self._size() and isinstance(piece, bytes):
            self._left -= len(piece)
            return (len(piece), piece), original
        if self._zeros:
            self._buffer += bytes(self._zeros)
            self._zeros = 0
        self._buffer += piece
        return self._full()

    def _full(self) -> tuple[Leaf, int] | None:
        size = self._size()
        if self._filled() < size:
            return None
        leaf: Leaf = (size, None if self._zeros else self._buffer)
        self._buffer, self._zeros = bytearray(), 0
        self._left -= size
        return leaf, -1
