"""Names without content: symlinks, FIFOs, sockets and devices."""

from __future__ import annotations

import os
import stat

from dwcp.errors import RefusedError
from dwcp.files.attributes import Attributes
from dwcp.wire.paths import display
from dwcp.wire.tree import Entry

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
}
"""Types of entries, by what stat(2) calls them."""
_DEVICES = {"char": stat.S_IFCHR, "block": stat.S_IFBLK}
MAX_MAJOR, MAX_MINOR = 2**12 - 1, 2**20 - 1
"""Of Linux's dev_t (linux/kdev_t.h)."""


def make(entry: Entry, name: bytes, parent: int, attributes: Attributes) -> None:
    """Under a new name in a held directory. Raises OSError; RefusedError for a device where that is not allowed."""
    if entry.type == "symlink":
        os.symlink(entry.link, name, dir_fd=parent)
        return
    if entry.type not in _DEVICES:
        os.mknod(name, (stat.S_IFIFO if entry.type == "fifo" else stat.S_IFSOCK) | 0o600, dir_fd=parent)
        return
    if not attributes.full:
        raise RefusedError(f"the device {display(entry.path)} is not made: {attributes.why_not}")
    major, minor = entry.device
    if major > MAX_MAJOR or minor > MAX_MINOR:
        raise RefusedError(f"{display(entry.path)} is refused: no device has the numbers {major}, {minor}")
    os.mknod(name, _DEVICES[entry.type] | 0o600, os.makedev(major, minor), dir_fd=parent)
