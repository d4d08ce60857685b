"""A stream, which can be read once, as tasks: one leaf after the other, as it comes."""

from __future__ import annotations

from collections.abc import Callable

from dwcp.errors import IntegrityError
from dwcp.hde.hashes import MIN_LEAF
from dwcp.transfer.progress import Progress
from dwcp.transfer.source import StreamReader
from dwcp.transfer.work import LeafTask, Mode, Outgoing, Work


class Feeder:
    """Of one sender. `feed` is for a thread of its own."""

    def __init__(self, work: Work, progress: Progress, end_phase: Callable[[Outgoing], None]) -> None:
        """`end_phase` is told when all tasks are done, if that was before the stream's end was known."""
        self._work = work
        self._progress = progress
        self._end_phase = end_phase

    def feed(self, file: Outgoing, reader: StreamReader, mode: Mode) -> None:
        """Turns a stream into tasks as it is read."""
        turn, count, kept = reader.take_over()
        file.reader, file.hashes = reader, reader.hashes
        for leaf in sorted(set(range(count)) - set(kept)):
            self._settled(file, leaf, reader.leaf_bytes(leaf))
        for leaf in kept:
            self._leaf(file, leaf, reader.leaf_bytes(leaf), mode)
        while (leaf_read := reader.next_leaf(turn)) is not None:
            self._leaf(file, leaf_read, reader.leaf_bytes(leaf_read), mode)
        if not reader.is_turn(turn):
            return
        with file.lock:
            file.listed = True
            last = file.pending == 0
        if last:
            self._end_phase(file)

    def _settled(self, file: Outgoing, leaf: int, size: int) -> None:
        """A leaf that an earlier session settled: the receiver must still have it, nobody else has."""
        digest = bytes(file.hashes[leaf * file.hash_size : (leaf + 1) * file.hash_size])
        if not file.receiver_has(leaf, digest):
            raise IntegrityError(
                "the receiver lost a part of the stream that it had confirmed; send it again from the start"
            )
        with file.lock:
            file.leaves = max(file.leaves, leaf + 1)
            file.size = max(file.size, leaf * MIN_LEAF + size)
            file.unchanged.append(leaf)
            file.settled_bytes += size
        self._progress.add(bytes_total=size, bytes_done=size)

    def _leaf(self, file: Outgoing, leaf: int, size: int, mode: Mode) -> None:
        with file.lock:
            file.leaves = max(file.leaves, leaf + 1)
            file.size = max(file.size, leaf * MIN_LEAF + size)
            file.hashes.extend(bytes(max(0, file.leaves * file.hash_size - len(file.hashes))))
            file.pending += 1
        self._progress.add(bytes_total=size)
        self._work.add(LeafTask(file, leaf, mode))
