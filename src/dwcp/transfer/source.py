"""What a sender reads: a tree or a file below a root, or a stream that can be read once."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Protocol

from dwcp.errors import StorageError, TemporaryError
from dwcp.files.root import Parts, Root, failure
from dwcp.files.scan import Found, Problem, scan
from dwcp.hde.hashes import MIN_LEAF
from dwcp.units import format_size
from dwcp.wire.messages import MAX_FILE, Entry
from dwcp.wire.paths import MAX_PATH, display

STREAM_WINDOW = 64
"""Leaves of a stream kept until the receiver has them on disk: 64 MiB, since they cannot be read again."""


class Reader(Protocol):
    """An open file of the source. Any thread may read."""

    def read_into(self, offset: int, view: memoryview) -> int:
        """Fills `view` from `offset`; fewer bytes at the end, none of a leaf that is settled. Raises a DwcpError."""
        ...

    def is_hole(self, offset: int, size: int) -> bool:
        """The file system stores nothing there: all zeros, not worth reading."""
        ...

    def check_unchanged(self) -> None:
        """Raises TemporaryError when the file is not any more what was announced."""
        ...

    def settled(self, leaf: int) -> None:
        """The receiver has this leaf on disk; it will not be asked for again."""
        ...

    def close(self) -> None: ...


class Source(Protocol):
    def entries(self, problem: Problem) -> Iterator[Entry]:
        """The names to send, directories before their content."""
        ...

    def open(self, entry: Entry) -> Reader:
        """Raises a DwcpError."""
        ...

    def close(self) -> None: ...


class TreeSource:
    """A file, a symlink or a directory with all below it. Takes over `root`."""

    def __init__(self, root: Root, start: Parts) -> None:
        self._root = root
        self._start = start

    def entries(self, problem: Problem) -> Iterator[Entry]:
        """Raises NotFoundError, RefusedError or StorageError when the start itself cannot be read."""
        first_names: dict[tuple[int, int], bytes] = {}
        for found in scan(self._root, self._start, problem):
            if len(found.path) > MAX_PATH:
                problem(StorageError(f"{display(found.path)} is left out: its path has more than {MAX_PATH} bytes"))
                continue
            if found.stat.st_size > MAX_FILE and stat.S_ISREG(found.stat.st_mode):
                problem(StorageError(f"{display(found.path)} is left out: more than {format_size(MAX_FILE)}"))
                continue
            entry = self._entry(found, first_names)
            if entry is None:
                problem(StorageError(f"{display(found.path)} is left out: sockets, FIFOs and devices are not sent"))
            else:
                yield entry

    def _entry(self, found: Found, first_names: dict[tuple[int, int], bytes]) -> Entry | None:
        mode, kind = stat.S_IMODE(found.stat.st_mode), stat.S_IFMT(found.stat.st_mode)
        mtime_ns = found.stat.st_mtime_ns
        if kind == stat.S_IFDIR:
            return Entry(path=found.path, type="dir", mode=mode, mtime_ns=mtime_ns)
        if kind == stat.S_IFLNK:
            return Entry(path=found.path, type="symlink", mode=mode, mtime_ns=mtime_ns, link=found.link)
        if kind != stat.S_IFREG:
            return None
        if found.stat.st_nlink > 1:
            first = first_names.setdefault((found.stat.st_dev, found.stat.st_ino), found.path)
            if first != found.path:
                return Entry(path=found.path, type="hardlink", link=first)
        return Entry(path=found.path, type="file", mode=mode, mtime_ns=mtime_ns, size=found.stat.st_size)

    def open(self, entry: Entry) -> Reader:
        parts = self._start + (tuple(entry.path.split(b"/")) if entry.path else ())
        try:
            return FileReader(self._root.open_file(parts), entry)
        except OSError as error:
            raise failure(error, "cannot read", entry.path or self._start[-1]) from error

    def close(self) -> None:
        self._root.close()


class FileReader:
    """An open regular file. It is read, not mapped: a file that is cut short under a map kills the process (SIGBUS).

    Closed while others read, it keeps its descriptor until the last of them is through: the number may be another
    file's an instant later, and its content would be sent.
    """

    def __init__(self, fd: int, entry: Entry) -> None:
        self._fd = fd
        self._entry = entry
        self._sparse = os.fstat(fd).st_blocks * 512 < entry.size
        self._lock = threading.Lock()
        self._users = 0
        self._closed = False

    @contextmanager
    def _held(self) -> Iterator[int]:
        """Raises StorageError when it is closed."""
        with self._lock:
            if self._closed:
                raise StorageError(f"{display(self._entry.path)} is not being sent any more")
            self._users += 1
        try:
            yield self._fd
        finally:
            with self._lock:
                self._users -= 1
                self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._closed and not self._users and self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def read_into(self, offset: int, view: memoryview) -> int:
        got = 0
        with self._held() as fd:
            try:
                while got < len(view):
                    count = os.preadv(fd, [view[got:]], offset + got)
                    if not count:
                        break
                    got += count
            except OSError as error:
                raise failure(error, "cannot read", self._entry.path) from error
        return got

    def is_hole(self, offset: int, size: int) -> bool:
        if not self._sparse:
            return False
        with self._held() as fd:
            try:
                return os.lseek(fd, offset, os.SEEK_DATA) >= offset + size
            except OSError as error:
                # lseek(2): ENXIO, no data from here to the end; anything else, no such knowledge here
                return error.errno == errno.ENXIO

    def clone_to(self, clone: Callable[[int], bool]) -> bool:
        """Hands the descriptor to `clone`, which shares its content, and gives its answer."""
        with self._held() as fd:
            return clone(fd)

    def check_unchanged(self) -> None:
        with self._held() as fd:
            status = os.fstat(fd)
        if (status.st_size, status.st_mtime_ns) != (self._entry.size, self._entry.mtime_ns):
            raise TemporaryError(f"{display(self._entry.path)} changed while it was read; send it again when it rests")

    def settled(self, leaf: int) -> None:
        """Nothing was kept for it."""

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._close_if_unused()


class StreamSource:
    """Something that can be read once, like standard input. Survives a lost session: what the receiver has not on disk
    is still in memory."""

    def __init__(self, stream: BinaryIO) -> None:
        self._reader = StreamReader(stream)

    def entries(self, problem: Problem) -> Iterator[Entry]:
        yield Entry(path=b"", type="stream", mode=0o644)

    def open(self, entry: Entry) -> Reader:
        return self._reader

    @property
    def reader(self) -> StreamReader:
        return self._reader

    def close(self) -> None:
        """The stream is the caller's."""


class StreamReader:
    """Leaves of MIN_LEAF bytes, read one after the other and kept until settled.

    Sessions come and go, each with a feeder that reads; only the newest turn counts, so that a feeder which outlives
    its session takes nothing away from the next.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._condition = threading.Condition()
        self._reading = threading.Lock()
        self._kept: dict[int, bytes] = {}
        self._next = 0
        self._size = 0
        self._turn = 0
        self._ended = False
        self.hashes = bytearray()
        """Digests of all leaves read so far: they outlive the session that made them."""

    def take_over(self) -> tuple[int, int, list[int]]:
        """(the new turn, number of leaves read so far, those of them that are kept). Earlier turns are over."""
        self.release()
        with self._reading, self._condition:
            return self._turn, self._next, sorted(self._kept)

    def release(self) -> None:
        """Ends the present turn."""
        with self._condition:
            self._turn += 1
            self._condition.notify_all()

    def next_leaf(self, turn: int) -> int | None:
        """Reads one more leaf, once there is room in the window, and gives its number; None at the end, or when the
        turn is over. Raises StorageError when the stream fails."""
        with self._reading:
            with self._condition:
                self._condition.wait_for(lambda: len(self._kept) < STREAM_WINDOW or self._turn != turn)
                if self._turn != turn or self._ended:
                    return None
            content = self._read()
            with self._condition:
                leaf = self._next
                self._ended = len(content) < MIN_LEAF
                if not content:
                    return None
                self._kept[leaf] = content
                self._next += 1
                self._size += len(content)
                return leaf

    def is_turn(self, turn: int) -> bool:
        with self._condition:
            return self._turn == turn

    def _read(self) -> bytes:
        parts, missing = [], MIN_LEAF
        try:
            while missing:
                part = self._stream.read(missing)
                if not part:
                    break
                parts.append(part)
                missing -= len(part)
        except OSError as error:
            raise failure(error, "cannot read", b"standard input") from error
        return b"".join(parts)

    def read_into(self, offset: int, view: memoryview) -> int:
        with self._condition:
            content = self._kept.get(offset // MIN_LEAF, b"")
        view[: len(content)] = content
        return len(content)

    def leaf_bytes(self, leaf: int) -> int:
        """Size of a leaf that was read, whether it is kept or not; the last one is mostly shorter."""
        with self._condition:
            return min(MIN_LEAF, self._size - leaf * MIN_LEAF)

    def is_hole(self, offset: int, size: int) -> bool:
        return False

    def check_unchanged(self) -> None:
        """Nobody can change what was read."""

    def settled(self, leaf: int) -> None:
        with self._condition:
            self._kept.pop(leaf, None)
            self._condition.notify_all()

    def close(self) -> None:
        """The stream is the caller's."""
