"""A block device as a source: its content becomes a file. It has neither a size nor a time that would tell whether it
has changed, so it is always compared by content (`TreeOptions.compare`), and must rest while it is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dwcp.errors import StorageError
from dwcp.files.root import failure
from dwcp.files.scan import Problem
from dwcp.transfer.source import FileReader, Reader
from dwcp.units import format_size
from dwcp.wire.messages import MAX_FILE, Entry
from dwcp.wire.tree import Identities


class DeviceSource:
    """Of the block device at `path`."""

    def __init__(self, path: Path) -> None:
        """Raises NotFoundError or StorageError."""
        self._path = path
        fd = self._open()
        try:
            size = os.lseek(fd, 0, os.SEEK_END)
            if size > MAX_FILE:
                raise StorageError(f"{path} is larger than {format_size(MAX_FILE)}, which no file can be")
            # the node's time is not that of its content, but lets an interrupted transfer find its part again
            mtime_ns = os.fstat(fd).st_mtime_ns
            self._entry = Entry(path=b"", type="file", mode=0o600, mtime_ns=mtime_ns, size=size, sparse=True)
        finally:
            os.close(fd)

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise failure(error, "cannot read", os.fsencode(self._path)) from error

    def entries(self, problem: Problem) -> Iterator[Entry]:
        yield self._entry

    def identities(self, entries: list[Entry]) -> tuple[Identities, Identities]:
        return [], []

    def open(self, entry: Entry) -> Reader:
        return _DeviceReader(self._open(), entry)

    def close(self) -> None:
        """Nothing is held."""


class _DeviceReader(FileReader):
    def is_hole(self, offset: int, size: int) -> bool:
        return False

    def check_unchanged(self) -> None:
        """A device does not tell."""
