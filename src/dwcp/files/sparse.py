"""Content written so that pages of zeros are holes: they take neither disk space nor time."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator

PAGE = 4096
"""The block size of most file systems; smaller holes do not exist there."""
_ZEROS = bytes(PAGE)
_KEEP_SIZE_AND_PUNCH_HOLE = 0x01 | 0x02
"""FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE (linux/falloc.h)."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def write_all(fd: int, content: memoryview, offset: int) -> None:
    """Raises OSError."""
    while content:
        written = os.pwrite(fd, content, offset)
        content = content[written:]
        offset += written


def write_sparse(fd: int, content: memoryview, offset: int, *, fresh: bool) -> None:
    """As `write_all`, but for pages of zeros. `fresh`: nothing was ever written there. The file's size may have to be
    set afterwards. Raises OSError."""
    for start, end, zero in _runs(content):
        if not zero or not (fresh or _punch(fd, offset + start, end - start)):
            write_all(fd, content[start:end], offset + start)


def _runs(content: memoryview) -> Iterator[tuple[int, int, bool]]:
    """(start, end, whether all of it is zero) of neighbouring pages that are alike."""
    start, kind = 0, None
    for at in range(0, len(content), PAGE):
        page = content[at : at + PAGE]
        zero = page == _ZEROS[: len(page)]
        if kind is not None and zero != kind:
            yield start, at, kind
            start = at
        kind = zero
    if kind is not None:
        yield start, len(content), kind


def _punch(fd: int, offset: int, size: int) -> bool:
    """False where the file system cannot make holes in what was written."""
    if _libc.fallocate(fd, _KEEP_SIZE_AND_PUNCH_HOLE, offset, size) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EOPNOTSUPP, errno.ENOSYS):
        return False
    raise OSError(number, os.strerror(number))
