"""What a sender still has to do, and the queue from which its streams take it.

A file that the receiver wants goes through these phases; each leaf is one task in each phase that it takes part in:

    whole     read, hash, send
    compare   read, hash; where the receiver has that very leaf, nothing; where it has a baseline, remember it as
              changed; else send
    delta     the changed leaves again, now with finer hashes of the baseline: send what they lack
    segment   the changed leaves again, some in each task, where this end has the baseline too

Any stream takes any task, so streams may come, go and differ in speed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import islice

from dwcp.hde.hashes import MAX_LEAF, MAX_LEAVES, MIN_LEAF, leaf_count, leaf_size
from dwcp.hde.index import Index
from dwcp.store.baselines import KeptCopy
from dwcp.transfer.segments import KeptBase
from dwcp.transfer.source import Reader
from dwcp.wire.messages import MAX_ENTRIES, MAX_PACK_FILES, Entry
from dwcp.wire.tree import MAX_XATTRS_SIZE, xattrs_size

PACK_FILE = 128 * 1024
"""Files up to this size ride together: above it the cost of a file is its content."""
PACK_BYTES = 1024 * 1024
MAX_BLOCK_BODY = MAX_LEAF + 64 * 1024
"""A leaf, or what a codec makes of one that does not shrink."""

MAX_RESENDS = 64
"""Damaged blocks of one file before it is given up, by either end: the link, the memory, or the peer is broken."""
LEAVES_A_FILE = 128
"""Leaves whose hashes take as much memory as everything else about a file, some 2 to 4 KiB."""
XATTRS_A_FILE = 4096
"""Bytes of extended attributes that take as much."""
MAX_UNSETTLED = 8192
"""Weight of the files that are announced and not settled: bounds the memory of both ends, about 1 million leaves in up
to 34 bytes each, while enough are under way for a long link."""
MAX_UNSETTLED_AT_ONCE = MAX_UNSETTLED + MAX_ENTRIES + 1 + MAX_LEAVES // LEAVES_A_FILE + MAX_XATTRS_SIZE // XATTRS_A_FILE
"""What a receiver sees at most: one more ENTRIES is sent below MAX_UNSETTLED, and cut after its heaviest file."""


def weight(entry: Entry, least_leaf: int) -> int:
    """What an unsettled file costs in memory; 1 for a small one."""
    return 1 + leaf_count(entry.size, least_leaf) // LEAVES_A_FILE + xattrs_size(entry) // XATTRS_A_FILE


class Mode(Enum):
    WHOLE = auto()
    COMPARE = auto()
    DELTA = auto()


@dataclass(slots=True, eq=False)
class Outgoing:
    """One announced file until it is settled. Fields are guarded by `lock`, except those that never change."""

    id: int
    entry: Entry
    hash_size: int
    least_leaf: int = MIN_LEAF
    lock: threading.Lock = field(default_factory=threading.Lock)
    reader: Reader | None = None
    size: int = 0
    leaves: int = 0
    hashes: bytearray = field(default_factory=bytearray)
    """Digests of the leaves, in order; `hash_size` bytes each."""
    have: bytes = b""
    """The receiver's digests of its leaves; zeros where it has none."""
    asked: bool = False
    """The receiver wants it, and has said so; it says so once."""
    base_size: int = 0
    """Of the baseline that the receiver can give finer hashes of; 0: none."""
    index: Index | None = None
    segment: list[int] = field(default_factory=list)
    """The changed leaves that `index.pages` is about."""
    indexing: bool = False
    """INDEX_REQUEST was sent and not answered."""
    changed: list[int] = field(default_factory=list)
    """Leaves to be sent as deltas, not in a segment yet."""
    unchanged: list[int] = field(default_factory=list)
    pending: int = 0
    """Tasks of the present phase that are not done."""
    listed: bool = True
    """No further task will be added to the present phase; false while a stream is still being read."""
    answered: bool = False
    """The receiver has said what it needs of it."""
    unacked: dict[int, int] = field(default_factory=dict)
    """Leaf (or PACKED) to the stream that carried it last, or QUEUED."""
    forgotten: bool = False
    """It is settled: nobody may open it again."""
    settled_bytes: int = 0
    resends: int = 0
    kept: KeptBase | None = None
    """The baseline, as long as nothing says that the receiver's is another."""
    written: KeptCopy | None = None
    """A copy that is being made of what is read."""
    renewed: list[int] = field(default_factory=list)
    """Leaves in which the new version differs from the baseline."""

    def __post_init__(self) -> None:
        self.size = self.entry.size
        self.leaves = leaf_count(self.size, self.least_leaf)
        self.hashes = bytearray(self.leaves * self.hash_size) if self.size > PACK_FILE else bytearray()

    @property
    def leaf_size(self) -> int:
        return MIN_LEAF if self.entry.type == "stream" else leaf_size(self.size, self.least_leaf)

    def leaf_bytes(self, leaf: int) -> int:
        return min(self.leaf_size, self.size - leaf * self.leaf_size)

    def receiver_has(self, leaf: int, digest: bytes) -> bool:
        at = leaf * self.hash_size
        return self.have[at : at + self.hash_size] == digest

    def set_hash(self, leaf: int, digest: bytes) -> None:
        self.hashes[leaf * self.hash_size : (leaf + 1) * self.hash_size] = digest


PACKED = -1
"""Stands for the one leaf of a file that rides in a pack, in `Outgoing.unacked`."""
QUEUED = -1
"""Stands for the stream there while a leaf waits to be sent again: both ends may find the same stream lost."""


@dataclass(frozen=True, slots=True)
class LeafTask:
    file: Outgoing
    leaf: int
    mode: Mode
    again: bool = False
    """Sent before: it counts no more towards the phase, and goes plain and whole."""


@dataclass(frozen=True, slots=True)
class SegmentTask:
    file: Outgoing
    leaves: list[int]


@dataclass(frozen=True, slots=True)
class PackTask:
    files: list[Outgoing]


Task = LeafTask | SegmentTask | PackTask


class Work:
    """The queue. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._urgent: deque[Task] = deque()
        self._jobs: deque[Iterator[Task]] = deque()
        self._small: deque[Outgoing] = deque()
        self._jobs_left = 0
        self._closed = self._held = False

    def add_small(self, files: Iterable[Outgoing]) -> None:
        with self._condition:
            self._small.extend(files)
            self._condition.notify_all()

    def add_leaves(self, file: Outgoing, leaves: Iterable[int], count: int, mode: Mode) -> None:
        """`count` leaves, taken from `leaves` one by one as streams become free."""
        # deltas first: an index is held until they are through, and takes some 20 MiB for a large image
        self._add_job((LeafTask(file, leaf, mode) for leaf in leaves), count, first=mode is Mode.DELTA)

    def add_segments(self, file: Outgoing, segments: list[list[int]]) -> None:
        self._add_job((SegmentTask(file, leaves) for leaves in segments), len(segments), first=True)

    def _add_job(self, tasks: Iterator[Task], count: int, *, first: bool) -> None:
        with self._condition:
            if first:
                self._jobs.appendleft(tasks)
            else:
                self._jobs.append(tasks)
            self._jobs_left += count
            self._condition.notify_all()

    def add(self, task: Task) -> None:
        """Goes before everything else."""
        with self._condition:
            self._urgent.append(task)
            self._condition.notify()

    def put_back(self, task: Task) -> None:
        """A task that was taken and not begun."""
        if isinstance(task, PackTask):
            self.add_small(task.files)
        else:
            self.add(task)

    def next(self, seconds: float) -> Task | None:
        """Waits for a task, at most `seconds`; None when there was none, while they are held, or after `close`."""
        with self._condition:
            self._condition.wait_for(self._any, seconds)
            if self._closed or self._held:
                return None
            if self._urgent:
                return self._urgent.popleft()
            # small files alternate with leaves by their own accord: packs are taken first, they are quickly done
            if self._small:
                return PackTask(self._next_pack())
            return self._next_of_a_job()

    def hold(self, held: bool) -> None:
        """While they are held nobody gets a task."""
        with self._condition:
            self._held = held
            self._condition.notify_all()

    @property
    def held(self) -> bool:
        return self._held

    def backlog(self) -> int:
        """Tasks that wait, so how many more streams would find work."""
        with self._condition:
            if self._held:
                return 0
            packs = sum(file.size for file in islice(self._small, 4096)) // PACK_BYTES + bool(self._small)
            return len(self._urgent) + self._jobs_left + packs

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """No more tasks for anyone."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _any(self) -> bool:
        return self._closed or (not self._held and bool(self._urgent or self._small or self._jobs_left))

    def _next_pack(self) -> list[Outgoing]:
        files: list[Outgoing] = []
        size = 0
        while self._small and len(files) < MAX_PACK_FILES and size + self._small[0].size <= PACK_BYTES:
            file = self._small.popleft()
            size += file.size
            files.append(file)
        return files

    def _next_of_a_job(self) -> Task | None:
        while self._jobs:
            task = next(self._jobs[0], None)
            if task is not None:
                self._jobs_left -= 1
                return task
            self._jobs.popleft()
        return None
