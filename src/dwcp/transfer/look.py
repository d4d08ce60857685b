"""How what the receiver has under a name differs from what was announced."""

from __future__ import annotations

import os
import stat

from dwcp.files import xattrs
from dwcp.files.attributes import Attributes
from dwcp.files.special import KINDS
from dwcp.wire.messages import Entry
from dwcp.wire.tree import CONTENT, NEW, SIZE


def look(entry: Entry, name: bytes, parent: int, attributes: Attributes) -> tuple[int, os.stat_result | None]:
    """Bits of `Change.what`, and what is there; NEW where that is nothing, or of another kind. `parent`: a held
    directory. Raises OSError, RefusedError."""
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return NEW, None
    kind = KINDS.get(stat.S_IFMT(status.st_mode))
    if kind != ("file" if entry.type == "stream" else entry.type):
        return NEW, status
    if kind in ("char", "block") and (os.major(status.st_rdev), os.minor(status.st_rdev)) != entry.device:
        return NEW, status
    what = attributes.differences(entry, status, xattrs.below(parent, name))
    if kind == "symlink" and os.readlink(name, dir_fd=parent) != entry.link:
        what |= CONTENT
    if kind == "file" and status.st_size != entry.size:
        what |= SIZE
    return what, status
