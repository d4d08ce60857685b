"""One announced file at the receiver, until it has its final name."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from dwcp.errors import ProtocolError
from dwcp.files.root import Parts
from dwcp.files.staging import Part
from dwcp.hde.hashes import MAX_LEAVES, MIN_LEAF, leaf_count, leaf_size
from dwcp.store.journal import Journal
from dwcp.wire.messages import Entry, FileEnd

NOWHERE, BASELINE, HERE = 0, 1, 2
"""Where the receiver has a leaf: not at all, in the baseline, in its own part."""


@dataclass(slots=True, eq=False)
class Incoming:
    """Fields are guarded by `lock`, except those that never change."""

    id: int
    entry: Entry
    target: Parts
    hash_size: int
    least_leaf: int = MIN_LEAF
    lock: threading.Lock = field(default_factory=threading.Lock)
    size: int = 0
    leaves: int = 0
    hashes: bytearray = field(default_factory=bytearray)
    origin: bytearray = field(default_factory=bytearray)
    """For each leaf NOWHERE, BASELINE or HERE."""
    settled: bytearray = field(default_factory=bytearray)
    """For each leaf 1 once it came, or the sender found it unchanged."""
    settled_count: int = 0
    base: Parts | None = None
    base_size: int = 0
    base_fd: int | None = None
    part: Part | None = None
    journal: Journal | None = None
    temporary: bytes = b""
    """Name in the staging directory of a file of one leaf."""
    fd: int | None = None
    """Of the part, or of the temporary file."""
    wanted: bool = False
    """The sender was asked for it; until then nothing may come."""
    indexing: bool = False
    """Finer hashes of the baseline were asked for and are not sent yet."""
    end: FileEnd | None = None
    completing: bool = False
    damaged: int = 0
    """Blocks that did not arrive as they were sent."""
    what: int = 0
    """Bits of `Change.what`: how it differs from what is here."""
    counted: int = 0
    """Bytes of it that the transfer's progress has counted."""
    users: int = 0
    closed: bool = False

    def __post_init__(self) -> None:
        self.size = self.entry.size
        self.leaves = leaf_count(self.size, self.least_leaf)
        self._resize()

    @property
    def is_stream(self) -> bool:
        return self.entry.type == "stream"

    @property
    def leaf_size(self) -> int:
        return MIN_LEAF if self.is_stream else leaf_size(self.size, self.least_leaf)

    @property
    def journalled(self) -> bool:
        """Large enough to be resumed."""
        return self.is_stream or self.leaves > 1

    def leaf_bytes(self, leaf: int) -> int:
        return min(self.leaf_size, self.size - leaf * self.leaf_size)

    def expect(self, leaf: int, size: int) -> None:
        """Raises ProtocolError when the sender names a leaf that the announced file cannot have."""
        if self.is_stream and self.end is None:
            if leaf >= MAX_LEAVES or size > MIN_LEAF:
                raise ProtocolError("a stream is longer than can be received")
            with self.lock:
                self.leaves = max(self.leaves, leaf + 1)
                self.size = max(self.size, leaf * MIN_LEAF + size)
                self._resize()
        elif leaf >= self.leaves or size != self.leaf_bytes(leaf):
            raise ProtocolError(f"leaf {leaf} of {size} bytes does not belong to file {self.id}")

    def have(self, leaf: int, digest: bytes, origin: int) -> None:
        """The receiver has this leaf already; the sender may call it unchanged."""
        if leaf < MAX_LEAVES and self.is_stream:
            self.leaves = max(self.leaves, leaf + 1)
            self._resize()
        if leaf < self.leaves:
            self.hashes[leaf * self.hash_size : (leaf + 1) * self.hash_size] = digest
            self.origin[leaf] = origin

    def digest(self, leaf: int) -> bytes:
        return bytes(self.hashes[leaf * self.hash_size : (leaf + 1) * self.hash_size])

    def arrived(self, leaf: int, digest: bytes) -> int:
        """A leaf is written to the part. The bytes that are settled by it; 0 when it was before."""
        with self.lock:
            self.have(leaf, digest, HERE)
            return self.settle(leaf)

    def settle(self, leaf: int) -> int:
        """As `arrived`, for a leaf that need not come. Call with the lock held."""
        if self.settled[leaf]:
            return 0
        self.settled_count += 1
        self.settled[leaf] = 1
        size = self.leaf_bytes(leaf)
        self.counted += size
        return size

    def finish_at(self, end: FileEnd) -> None:
        """The sender has said its last about the file. Raises ProtocolError where that does not fit."""
        with self.lock:
            if self.end is not None:
                raise ProtocolError(f"file {self.id} ends twice")
            if self.is_stream:
                self.size = end.size
                count = (end.size + MIN_LEAF - 1) // MIN_LEAF
                if count > MAX_LEAVES:
                    raise ProtocolError("a stream is longer than can be received")
                self.leaves = count
                self._resize()
                # what an earlier, longer stream left in the part is cut off
                del self.settled[count:], self.origin[count:]
                self.settled_count = sum(self.settled)
            elif end.size != self.size:
                raise ProtocolError(f"file {self.id} ends with another size than was announced")
            self.end = end

    def is_whole(self) -> bool:
        """True once, for whoever then completes the file."""
        with self.lock:
            if self.end is None or self.completing or self.settled_count < self.leaves:
                return False
            self.completing = True
            return True

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Keeps the descriptors open, so that none is reused under a thread that writes. False: closed already."""
        with self.lock:
            alive = not self.closed
            self.users += alive
        try:
            yield alive
        finally:
            with self.lock:
                self.users -= alive
                self._close_if_unused()

    def keep_base(self, fd: int) -> bool:
        """Takes the baseline over: its name may get other content before this file is whole. False: closed already."""
        with self.lock:
            if self.closed:
                return False
            self.base_fd = fd
            return True

    def close(self) -> None:
        """Gives back all descriptors, as soon as nobody holds them."""
        with self.lock:
            self.closed = True
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        if not self.closed or self.users:
            return
        part, fd, base_fd = self.part, self.fd, self.base_fd
        self.part = self.fd = self.base_fd = None
        if part is not None:
            part.close()
        elif fd is not None:
            os.close(fd)
        if base_fd is not None:
            os.close(base_fd)

    def _resize(self) -> None:
        for array, unit in ((self.hashes, self.hash_size), (self.origin, 1), (self.settled, 1)):
            array.extend(bytes(max(0, self.leaves * unit - len(array))))
