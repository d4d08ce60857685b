"""The sender's copies of what it sent (`store.baselines`) at work: the base of the next version's delta."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dwcp.errors import StorageError
from dwcp.hde import standalone
from dwcp.hde.content import Content
from dwcp.hde.effort import Effort
from dwcp.hde.hashes import Hash
from dwcp.hde.matching import Matcher
from dwcp.hde.segment import Segment
from dwcp.store.baselines import KeptCopy
from dwcp.transfer.source import FileReader

LEAST = 1024 * 1024
"""Bytes of a file of which a copy is kept: below it, a delta saves less than the files around it cost."""
CODERS = 2
"""Segments that are coded, or decoded, at a time in one transfer: each takes several times its content in memory."""


class KeptBase:
    """The old version of one file as this end has it, while the receiver's digests say that it has the same.

    Any thread may use it; `close` or `update` comes last.
    """

    def __init__(self, copy: KeptCopy) -> None:
        self._copy = copy
        self._content = Content(copy.size, self._read)
        self._lock = threading.Lock()
        self._matcher = Matcher(self._content)

    def _read(self, offset: int, size: int) -> bytes:
        try:
            return self._copy.read(offset, size)
        except OSError as error:
            raise StorageError(f"cannot read {self._copy.path}: {error.strerror}") from error

    def agrees(self, offset: int, size: int, digest: bytes, hash_: Hash) -> bool:
        """Whether `digest` is that of what is here at this place, as far as it reaches."""
        try:
            return hash_.digest(self._read(offset, min(size, max(0, self._copy.size - offset)))) == digest
        except StorageError:
            return False

    def match(self, leaves: Sequence[tuple[int, bytes]]) -> standalone.Matched:
        with self._lock:
            return standalone.match(self._matcher, leaves)

    def encode(self, matched: standalone.Matched, algorithm: str, budget: float) -> Segment:
        return standalone.encode(matched, self._content, algorithm, budget)

    def update(self, reader: FileReader, size: int, changed: Sequence[int], leaf_size: int) -> None:
        """Makes the copy the version that was sent: its changed leaves, or all that differs where it is old. Closes it.

        Raises StorageError when the source cannot be read.
        """
        copy = self._copy
        if reader.clone_to(copy.clone):
            copy.finish(size, anew=True)
            return
        leaves = range(-(-size // leaf_size)) if copy.is_old else changed
        view = memoryview(bytearray(leaf_size))
        for leaf in leaves:
            offset = leaf * leaf_size
            content = view[: reader.read_into(offset, view[: min(leaf_size, size - offset)])]
            if self._read(offset, len(content)) != content:
                copy.write(offset, content)
        copy.finish(size, anew=copy.is_old)

    def close(self) -> None:
        """The transfer did not come to its end."""
        self._copy.leave(half_used=True)

    def discard(self) -> None:
        """The receiver's is another one."""
        self._copy.discard()


@dataclass(frozen=True, slots=True)
class Coded:
    literal_size: int
    """Bytes that the base does not have."""
    body: bytes
    """Of a SEGMENT."""


class Coder:
    """Codes segments of one transfer, a few at a time, as well as the link leaves time for."""

    def __init__(self, algorithm: str, idle_seconds: float) -> None:
        self._algorithm = algorithm
        self._idle_seconds = idle_seconds
        self._turns = threading.BoundedSemaphore(CODERS)
        self._effort = Effort(CODERS)
        self._lock = threading.Lock()

    def code(
        self, base: KeptBase, leaves: Sequence[tuple[int, bytes]], streams: int, waiting: Callable[[], None]
    ) -> Coded | None:
        """None where the base cannot be read. `waiting` is called now and then while others have their turn."""
        while not self._turns.acquire(timeout=self._idle_seconds):
            waiting()
        try:
            matched = base.match(leaves)
            with self._lock:
                budget = self._effort.budget(len(matched.literal), streams)
            segment = base.encode(matched, self._algorithm, budget)
            return Coded(len(matched.literal), segment.pack())
        except StorageError:
            return None
        finally:
            self._turns.release()

    def timed(self, size: int, send: Callable[[], None]) -> None:
        """Sends a segment with `size` bytes of literals, and learns from how long it takes."""
        began = time.monotonic()
        send()
        with self._lock:
            self._effort.sent(size, time.monotonic() - began)


def segments(leaves: Sequence[int], leaf_size: int, streams: int) -> list[list[int]]:
    """Which leaves go together: large segments first, which compress better, then smaller ones, so that all streams end
    together (guided self-scheduling: Polychronopoulos and Kuck, IEEE Transactions on Computers C-36, 1987)."""
    most = max(1, standalone.MAX_CONTENT // leaf_size)
    least = max(1, LEAST // leaf_size)
    groups = []
    at = 0
    while at < len(leaves):
        count = max(least, min(most, (len(leaves) - at) // (2 * max(1, streams))))
        groups.append(list(leaves[at : at + count]))
        at += count
    return groups
