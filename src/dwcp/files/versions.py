"""Whole files as versions for `hde`: read at any offset with their holes known, written so that holes stay holes."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dwcp.errors import UsageError
from dwcp.files.root import failure
from dwcp.hde.content import Content


@contextmanager
def open_version(path: Path) -> Iterator[Content]:
    """A regular file or block device. It is read, not mapped: a file that is cut short under a map kills the process
    (SIGBUS). Raises NotFoundError, StorageError; UsageError for what cannot be read at any offset."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise failure(error, "cannot read", os.fsencode(path)) from error
    try:
        status = os.fstat(fd)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            raise UsageError(f"{path} is no regular file; a delta needs content that can be read at any offset")
        size = os.lseek(fd, 0, os.SEEK_END)
        sparse = stat.S_ISREG(status.st_mode) and status.st_blocks * 512 < size

        def read(offset: int, length: int) -> bytes:
            try:
                data = os.pread(fd, length, offset)
                while len(data) < length and (more := os.pread(fd, length - len(data), offset + len(data))):
                    data += more
            except OSError as error:
                raise failure(error, "cannot read", os.fsencode(path)) from error
            return data

        def is_hole(offset: int, length: int) -> bool:
            if not sparse:
                return False
            try:
                return os.lseek(fd, offset, os.SEEK_DATA) >= offset + length
            except OSError as error:
                # lseek(2): ENXIO, no data from here to the end; anything else, no such knowledge here
                return error.errno == errno.ENXIO

        yield Content(size, read, is_hole)
    finally:
        os.close(fd)


def write_version(path: Path, leaves: Iterable[tuple[int, bytes | bytearray | None]]) -> None:
    """Writes (length, content or None for zeros) pieces beside `path`, and gives it that name when all are there. As
    with cp(1), the kernel writes it out later. Raises StorageError; whatever `leaves` raises leaves an old `path` as it
    was."""
    try:
        fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise failure(error, "cannot write below", os.fsencode(path.parent)) from error
    try:
        with os.fdopen(fd, "wb", buffering=0) as file:
            size = 0
            for length, data in leaves:
                size += length
                if data is None:
                    file.seek(length, os.SEEK_CUR)
                else:
                    view = memoryview(data)
                    while view:
                        view = view[file.write(view) :]
            file.truncate(size)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).rename(path)
    except OSError as error:
        raise failure(error, "cannot write", os.fsencode(path)) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
