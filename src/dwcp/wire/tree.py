"""What is said of a tree: its names with their metadata, what of them a transfer takes over, what it changes.

Everything beyond the first six fields of an entry goes only to a peer that has listed the feature `trees`.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

Index: TypeAlias = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Time: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
PathBytes: TypeAlias = Annotated[bytes, Meta(max_length=4096)]

MAX_FILE = 2**44
"""16 TiB: 2**20 leaves of the largest size, so that the digests of a file fit one body."""
MAX_XATTR_NAME = 255
"""XATTR_NAME_MAX in limits.h."""
MAX_XATTR = 65536
"""XATTR_SIZE_MAX in limits.h."""
MAX_XATTRS = 1024
"""Of one name."""
MAX_XATTRS_SIZE = 256 * 1024
"""Bytes of their names and values together: what ext4 and xfs keep is far less, and one entry has to fit an ENTRIES."""
MAX_IDENTITIES = 65536
"""Users, and as many groups, whose names are told in one transfer; further ones go by number."""
MAX_FILTERS = 4096
MAX_FILTER = 8192

Xattr: TypeAlias = tuple[
    Annotated[bytes, Meta(max_length=MAX_XATTR_NAME)], Annotated[bytes, Meta(max_length=MAX_XATTR)]
]
"""Name and value of an extended attribute."""
Identity: TypeAlias = tuple[Index, Annotated[bytes, Meta(max_length=256)]]
Identities: TypeAlias = Annotated[list[Identity], Meta(max_length=MAX_XATTRS)]
"""Numbers of users or groups, and what they are called at the sender."""

SPECIAL = ("fifo", "socket", "char", "block")
"""Types of entries that have neither content nor a target."""


class Entry(Struct, frozen=True, omit_defaults=True):
    """One name of the tree. `path` is relative to what was opened; empty for that itself."""

    path: PathBytes
    type: Annotated[str, Meta(pattern="^(file|dir|symlink|hardlink|stream|fifo|socket|char|block)$")]
    mode: Index = 0
    mtime_ns: Time = 0
    size: Annotated[int, Meta(ge=0, le=MAX_FILE)] = 0
    link: PathBytes = b""
    """Target of a symlink; path of the first name of a hardlink."""
    uid: Index | None = None
    gid: Index | None = None
    device: tuple[Index, Index] = (0, 0)
    """Major and minor number."""
    sparse: bool = False
    """It has holes at the sender; pages of zeros are holes at the receiver too."""
    xattrs: Annotated[list[Xattr], Meta(max_length=MAX_XATTRS)] = []


def xattrs_size(entry: Entry) -> int:
    """Bytes of its extended attributes."""
    return sum(len(name) + len(value) for name, value in entry.xattrs) if entry.xattrs else 0


Kept: TypeAlias = Literal["modes", "owner", "group", "special", "acls", "xattrs", "security"]
"""What of the metadata is taken over beyond permissions and times:

    modes      set-user-id, set-group-id and sticky bits
    owner      the user
    group      the group
    special    devices, FIFOs and sockets
    acls       POSIX ACLs
    xattrs     extended attributes user.*
    security   extended attributes security.* and trusted.*
"""
ALL_KEPT: tuple[Kept, ...] = ("modes", "owner", "group", "special", "acls", "xattrs", "security")


class TreeOptions(Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How a tree is transferred. All may be left as they are."""

    keep: Annotated[list[Kept], Meta(max_length=16)] = []
    """What of the metadata is taken over beyond permissions and times."""
    numeric_ids: bool = False
    """Owners by number; else by name, where the receiver has a user or group of that name."""
    compare: bool = False
    """Files are compared by content, not by size and time."""
    filters: Annotated[list[Annotated[bytes, Meta(max_length=MAX_FILTER)]], Meta(max_length=MAX_FILTERS)] = []
    """Rules in the syntax of rsync's --filter, the first that matches decides: see `dwcp.filters`."""
    ignore_files: bool = True
    """`.dwcpignore` in a directory of the source leaves out what it names."""
    one_file_system: bool = False
    """What is mounted below the source is left out."""
    delete_excluded: bool = False
    """Deletions include what the filters leave out at the source."""
    delete_before: bool = False
    """Deletions come before the first file is sent: room is made, at the cost of a second look at the source."""
    max_delete: Count | None = None
    """No more names than this are deleted."""
    dry_run: bool = False
    """Nothing is changed."""
    itemize: bool = False
    """The receiver tells what it changes."""
    backup: bool = False
    """What is replaced or deleted is kept, under its name with `backup_suffix`, in `backup_dir`."""
    backup_dir: PathBytes = b""
    """Below the target; empty: beside the new one."""
    backup_suffix: Annotated[bytes, Meta(max_length=64)] = b"~"
    partial: bool = True
    """What has arrived of a file is kept when the transfer breaks off."""
    rate: Count = 0
    """Most bits per second; 0: no limit beside the node's own."""


NEW, CONTENT, SIZE, TIME, MODE, OWNER, GROUP, ACL, XATTR, DELETED, SENT = (1 << bit for bit in range(11))
"""Bits of `Change.what`: the name is new; its content (or target), size, time, permissions, owner, group, ACLs or
extended attributes differ; it is deleted; content was transferred."""


class Change(Struct, frozen=True, array_like=True):
    """One name that the receiver changes, or would change."""

    path: PathBytes
    type: Annotated[str, Meta(max_length=16)]
    what: Index
    link: PathBytes = b""
    """As in the entry."""
