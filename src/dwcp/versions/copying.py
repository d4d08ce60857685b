"""One file as a second one that shares its blocks where the file system can, and is a copy of its own elsewhere.

Of a clone (FICLONE, ioctl_ficlone(2): btrfs, XFS, bcachefs) as of a copy, writing to either changes only that one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

import blake3

from dwcp.versions.manifest import Entry

FICLONE = 0x40049409
"""From linux/fs.h: _IOW(0x94, 9, int)."""
FIDEDUPERANGE = 0xC0189436
"""From linux/fs.h: _IOWR(0x94, 54, struct file_dedupe_range), of 24 bytes without its list."""
_DEDUPE = struct.Struct("=QQHHI qQQiI")
"""That struct with one file to share with (ioctl_fideduperange(2))."""
SHARED = 128 * 1024
"""Bytes of which all or nothing are shared with an older file: a multiple of every block size, and what the kernel
compares in one go without holding others up."""
_CANNOT = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.EXDEV, errno.ENOSYS, errno.EPERM)
PIECE = 1024 * 1024
"""Fits a core's cache, so that reading, hashing and writing touch memory once."""

Look = Callable[[int], None]
"""Is told how many bytes were read; may wait, or raise to stop."""


def clone(source: int, target: int) -> bool:
    """Makes the empty `target` share the content of `source`; false where the file system cannot. Raises OSError."""
    try:
        fcntl.ioctl(target, FICLONE, source)
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True


def share(old: int, new: int) -> int:
    """Lets `new` have the blocks of `old` wherever both have the same content at the same place, which the kernel
    compares; how many bytes that were. 0 where the file system cannot. Raises OSError."""
    size, shared = min(os.fstat(old).st_size, os.fstat(new).st_size), 0
    for offset in range(0, size - size % SHARED, SHARED):
        request = bytearray(_DEDUPE.pack(offset, SHARED, 1, 0, 0, new, offset, 0, 0, 0))
        try:
            fcntl.ioctl(old, FIDEDUPERANGE, request)
        except OSError as error:
            if error.errno in _CANNOT:
                return shared
            raise
        *_, done, status, _ = _DEDUPE.unpack(request)
        # FILE_DEDUPE_RANGE_SAME is 0, DIFFERS 1; below that an errno, as of a file that is open for running
        shared += done if status == 0 else 0
    return shared


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
