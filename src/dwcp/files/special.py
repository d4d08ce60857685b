"""Names without content: symlinks, FIFOs, sockets and devices."""

from __future__ import annotations

import os
import stat

from dwcp.errors import RefusedError
from dwcp.files.attributes import Attributes
from dwcp.wire.paths import display
from dwcp.wire.tree import Entry

_KINDS = {"symlink": stat.S_IFLNK, "fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK}
_DEVICES = {"char": stat.S_IFCHR, "block": stat.S_IFBLK}
MAX_MAJOR, MAX_MINOR = 2**12 - 1, 2**20 - 1
"""Of Linux's dev_t (linux/kdev_t.h)."""


def is_as_announced(entry: Entry, status: os.stat_result, name: bytes, parent: int) -> bool:
    """Whether what is there is of the same kind, with the same target or numbers. Raises OSError."""
    kind = stat.S_IFMT(status.st_mode)
    if entry.type in _DEVICES:
        return kind == _DEVICES[entry.type] and (os.major(status.st_rdev), os.minor(status.st_rdev)) == entry.device
    return kind == _KINDS[entry.type] and (kind != stat.S_IFLNK or os.readlink(name, dir_fd=parent) == entry.link)


def make(entry: Entry, name: bytes, parent: int, attributes: Attributes) -> None:
    """Under a new name in a held directory. Raises OSError; RefusedError for a device where that is not allowed."""
    if entry.type == "symlink":
        os.symlink(entry.link, name, dir_fd=parent)
        return
    if entry.type not in _DEVICES:
        os.mknod(name, _KINDS[entry.type] | 0o600, dir_fd=parent)
        return
    if not attributes.full:
        raise RefusedError(f"the device {display(entry.path)} is not made: {attributes.why_not}")
    major, minor = entry.device
    if major > MAX_MAJOR or minor > MAX_MINOR:
        raise RefusedError(f"{display(entry.path)} is refused: no device has the numbers {major}, {minor}")
    os.mknod(name, _DEVICES[entry.type] | 0o600, os.makedev(major, minor), dir_fd=parent)
