"""What a peer asks of an export without a transfer: names, and ranges of files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from dwcp.errors import RefusedError, TemporaryError
from dwcp.files.root import Parts, Root, failure
from dwcp.wire import messages as m
from dwcp.wire.paths import STAGING, display

_KINDS = {stat.S_IFDIR: "dir", stat.S_IFREG: "file", stat.S_IFLNK: "symlink"}


def listing(root: Root, parts: Parts, path: bytes) -> Iterator[m.ListEntry]:
    """What is in a directory, sorted; of anything else, itself. Raises NotFoundError, RefusedError or StorageError."""
    try:
        status = root.stat(parts)
        if not stat.S_ISDIR(status.st_mode):
            yield _entry(parts[-1], status, b"")
            return
        with root.directory(parts) as fd:
            with os.scandir(fd) as found:
                names = sorted(os.fsencode(entry.name) for entry in found)
            for name in names:
                if parts or name != STAGING:
                    yield _named(name, fd)
    except OSError as error:
        raise failure(error, "cannot list", path) from error


def itself(root: Root, parts: Parts, path: bytes) -> m.ListEntry:
    """The entry of a path; that of an export has the export's name. Raises as `listing`."""
    try:
        if not parts:
            return _entry(path, root.stat(parts), b"")
        with root.directory(parts[:-1]) as fd:
            return _named(parts[-1], fd)
    except OSError as error:
        raise failure(error, "cannot look at", path) from error


def read_range(root: Root, parts: Parts, request: m.Read) -> tuple[m.Content, bytes]:
    """What is there of the range. Raises as `listing`; RefusedError for what is no regular file, TemporaryError for one
    that changes meanwhile."""
    if not parts:
        raise RefusedError(f"{display(request.path)} is an export; name a file in it")
    try:
        fd = root.open_file(parts)
        try:
            status = os.fstat(fd)
            content = _read(fd, request.offset, min(request.size, max(0, status.st_size - request.offset)))
            after = os.fstat(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise failure(error, "cannot read", request.path) from error
    if (after.st_size, after.st_mtime_ns) != (status.st_size, status.st_mtime_ns):
        raise TemporaryError(f"{display(request.path)} changed while it was read; read it again when it rests")
    return m.Content(size=status.st_size, mtime_ns=status.st_mtime_ns), content


def _read(fd: int, offset: int, size: int) -> bytes:
    pieces: list[bytes] = []
    while size and (piece := os.pread(fd, size, offset)):
        pieces.append(piece)
        offset += len(piece)
        size -= len(piece)
    return b"".join(pieces)


def _named(name: bytes, directory: int) -> m.ListEntry:
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    link = os.readlink(name, dir_fd=directory) if stat.S_ISLNK(status.st_mode) else b""
    return _entry(name, status, link)


def _entry(name: bytes, status: os.stat_result, link: bytes) -> m.ListEntry:
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "special")
    return m.ListEntry(name, kind, status.st_size, status.st_mtime_ns, stat.S_IMODE(status.st_mode), link)
