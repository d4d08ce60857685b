"""What is compared: a version of an object, read through a function, so that files, maps and memory all serve."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from typing_extensions import Buffer

from dwcp.errors import StorageError
from dwcp.hde.hashes import Hash, leaf_size, zero_digest
from dwcp.hde.index import ReadAt

IsHole = Callable[[int, int], bool]
"""(offset, size): whether nothing but zeros is there, known without reading it. May say no where yes is true."""


def _unknown(offset: int, size: int) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Content:
    """One version. It must not change while it is used; `read` may be called for any range, in any order."""

    size: int
    """Bytes."""
    read: ReadAt
    is_hole: IsHole = _unknown

    def take(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes, as an object that compares by memcmp(3). Raises StorageError where they are not."""
        data = self.read(offset, size)
        data = data if isinstance(data, bytes) else bytes(data)
        if len(data) != size:
            raise StorageError(
                f"content of {self.size} bytes gave {len(data)} of {size} bytes at offset {offset}; "
                "it was cut short while it was read"
            )
        return data

    def clamp(self, offset: int, size: int) -> tuple[int, int]:
        """(offset, size) of the part of a range that is inside."""
        first = min(max(0, offset), self.size)
        return first, max(0, min(offset + size, self.size) - first)

    def leaves(self) -> Iterator[tuple[int, int]]:
        """(offset, size) of each leaf."""
        step = leaf_size(self.size)
        return ((offset, min(step, self.size - offset)) for offset in range(0, self.size, step))


EMPTY = Content(0, lambda offset, size: b"")


def from_buffer(buffer: Buffer) -> Content:
    """Content in memory; nothing is copied until it is read."""
    view = memoryview(buffer).cast("B")
    return Content(len(view), lambda offset, size: view[offset : offset + size])


def leaf_digests(content: Content, hash_: Hash) -> bytes:
    """The digests of all leaves, end to end. Reads everything once, a leaf at a time."""
    return b"".join(
        zero_digest(hash_.name, size) if content.is_hole(offset, size) else hash_.digest(content.read(offset, size))
        for offset, size in content.leaves()
    )
