"""Names as they travel: bytes, because a file name on Linux is bytes, relative, and without a way out.

Everything a peer names passes `check_relative` before it comes near a file system.
"""

from __future__ import annotations

import os

from dwcp.errors import RefusedError

MAX_PATH = 4096
"""PATH_MAX in limits.h."""
MAX_NAME = 255
"""NAME_MAX in limits.h, and the limit of ext4, xfs, btrfs and tmpfs."""
STAGING = b".dwcp"
"""The directory at an export's root in which unfinished files wait; not a name that can be sent, got or listed."""


def check_relative(path: bytes) -> tuple[bytes, ...]:
    """The components of a relative path; none for the empty path, which is the root itself.

    Raises RefusedError for whatever could lead elsewhere or cannot exist.
    """
    if not path:
        return ()
    if len(path) > MAX_PATH:
        raise RefusedError(f"a path of {len(path)} bytes is refused: at most {MAX_PATH} are possible")
    if path.startswith(b"/"):
        raise RefusedError(f"{display(path)} is refused: paths are relative to an export, without a leading slash")
    parts = tuple(path.split(b"/"))
    for part in parts:
        if part in (b"", b".", b".."):
            raise RefusedError(f"{display(path)} is refused: empty components, '.' and '..' are not allowed")
        if len(part) > MAX_NAME:
            raise RefusedError(f"{display(path)} is refused: a name has at most {MAX_NAME} bytes")
        if b"\0" in part:
            raise RefusedError(f"{display(path)} is refused: a name cannot contain a zero byte")
    if parts[0] == STAGING:
        raise RefusedError(f"{display(path)} is refused: {STAGING.decode()} holds unfinished files")
    return parts


def check_link(target: bytes) -> bytes:
    """The target of a symlink as it is: it may lead anywhere, since nothing here follows it.

    Raises RefusedError for what no symlink can hold.
    """
    if not target or len(target) >= MAX_PATH or b"\0" in target:
        raise RefusedError(f"a symlink to {display(target[:MAX_NAME])} is refused: its target cannot exist")
    return target


def display(path: bytes) -> str:
    """A path for people: quoted, with whatever is not printable UTF-8 escaped; what is sent or got itself is '.'."""
    path = path or b"."
    return ascii(os.fsdecode(path)) if not _printable(path) else "'" + path.decode() + "'"


def _printable(path: bytes) -> bool:
    try:
        return path.decode().isprintable()
    except UnicodeDecodeError:
        return False
