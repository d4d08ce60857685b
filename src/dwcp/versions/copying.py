"""One file as a second one that shares its blocks where the file system can, and is a copy of its own elsewhere.

Of a clone (FICLONE, ioctl_ficlone(2): btrfs, XFS, bcachefs) as of a copy, writing to either changes only that one.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

import blake3

from dwcp.versions.manifest import Entry

FICLONE = 0x40049409
"""From linux/fs.h: _IOW(0x94, 9, int)."""
PIECE = 1024 * 1024
"""Fits a core's cache, so that reading, hashing and writing touch memory once."""

Look = Callable[[int], None]
"""Is told how many bytes were read; may wait, or raise to stop."""


def clone(source: int, target: int) -> bool:
    """Makes the empty `target` share the content of `source`; false where the file system cannot. Raises OSError."""
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS, errno.EPERM):
            return False
        raise
    return True


def can_clone(directory: Path) -> bool:
    """Whether files of this directory's file system can share blocks. Raises OSError."""
    with TemporaryFile(dir=directory) as one, TemporaryFile(dir=directory) as other:
        one.write(bytes(4096))
        one.flush()
        return clone(one.fileno(), other.fileno())


def copy(source: int, target: int) -> None:
    """Content, holes left out. Raises OSError."""
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    for offset, length in extents(source, size):
        end = offset + length
        while offset < end:
            data = os.pread(source, min(PIECE, end - offset), offset)
            if not data:
                return
            view = memoryview(data)
            while view:
                written = os.pwrite(target, view, offset)
                view = view[written:]
                offset += written


def digest(fd: int, look: Look | None = None) -> str:
    """BLAKE3 of the content, hexadecimal; holes are known without being read. Raises OSError, or what `look` does."""
    size, at = os.fstat(fd).st_size, 0
    running = blake3.blake3()
    for offset, length in extents(fd, size):
        _zeros(running, offset - at)
        end = offset + length
        while offset < end:
            data = os.pread(fd, min(PIECE, end - offset), offset)
            if not data:
                return str(running.hexdigest())
            running.update(data)
            offset += len(data)
            if look is not None:
                look(len(data))
        at = end
    _zeros(running, size - at)
    return str(running.hexdigest())


def extents(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of what is no hole (lseek(2), SEEK_DATA). Raises OSError."""
    at = 0
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
            end = os.lseek(fd, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            if error.errno != errno.EINVAL:
                raise
            begin, end = at, size
        yield begin, min(end, size) - begin
        at = end


def xattrs(fd: int) -> dict[str, bytes]:
    """Of an open file, ACLs included, but for the label that SELinux gives by itself. Raises OSError."""
    try:
        return {name: os.getxattr(fd, name) for name in sorted(os.listxattr(fd)) if name != "security.selinux"}
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENODATA):
            return {}
        raise


def take_over(fd: int, entry: Entry) -> None:
    """Owner, xattrs, mode and time, in the order in which none undoes another. What this user may not give away stays
    with the manifest. Raises OSError."""
    _if_permitted(partial(os.fchown, fd, entry.uid, entry.gid))
    for name, value in entry.xattrs.items():
        _if_permitted(partial(os.setxattr, fd, name, value))
    os.fchmod(fd, entry.mode)
    os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))


def _if_permitted(step: Callable[[], None]) -> None:
    try:
        step()
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
            raise


def _zeros(running: blake3.blake3, length: int) -> None:
    while length > 0:
        piece = min(length, PIECE)
        running.update(_ZEROS[:piece])
        length -= piece


_ZEROS = memoryview(bytes(PIECE))
