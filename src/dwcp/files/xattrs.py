"""Extended attributes of what a descriptor holds, or of a name in a held directory: nothing that races with us leads
elsewhere. POSIX ACLs (acl(5)) are such attributes too."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Collection
from typing import TypeAlias

from dwcp.errors import RefusedError
from dwcp.wire.paths import display
from dwcp.wire.tree import MAX_XATTRS, MAX_XATTRS_SIZE, Xattr

ACL_ACCESS = b"system.posix_acl_access"
ACLS = (ACL_ACCESS, b"system.posix_acl_default")
UNSUPPORTED = {errno.ENOTSUP, errno.ENOSYS}
NOT_KEPT = {*UNSUPPORTED, errno.EPERM, errno.EACCES, errno.ENOSPC, errno.E2BIG, errno.ERANGE, errno.EINVAL}
"""A file system, or a kernel, that does not take an attribute. ENOSPC: ext4 has room for one block of them."""
SELINUX = b"security.selinux"
"""Given by the kernel's policy to every file where it is in use: taken over, but never removed."""

_ACL_HEADER = struct.Struct("<I")
_ACL_ENTRY = struct.Struct("<HHI")
_ACL_VERSION = 2
_ACL_USER, _ACL_GROUP = 0x02, 0x08
"""Tags of entries for a named user and a named group (linux/posix_acl.h)."""


Place: TypeAlias = tuple[int | bytes, bool]
"""A descriptor or path, and whether a path's last component is followed."""


def held(what: int | bytes) -> Place:
    """What is open: a descriptor, or the path of one in proc(5)."""
    return what, True


def below(directory: int, name: bytes) -> Place:
    """A name in a held directory."""
    return b"/proc/self/fd/%d/%s" % (directory, name), False


def wanted(keep: Collection[str]) -> Callable[[bytes], bool]:
    """Whether an attribute of that name is one of those that a transfer keeps."""
    prefixes = (b"user.",) * ("xattrs" in keep) + (b"security.", b"trusted.") * ("security" in keep)
    names = ACLS if "acls" in keep else ()
    return lambda name: name.startswith(prefixes) or name in names


def check_name(name: bytes) -> None:
    """Raises RefusedError for an attribute that no sender names."""
    if b"\0" in name or not (name.startswith((b"user.", b"security.", b"trusted.")) or name in ACLS):
        raise RefusedError(f"the attribute {display(name)} is refused: no such attribute is kept")


def read(place: Place, wants: Callable[[bytes], bool]) -> list[Xattr]:
    """In the order of their names; none where the file system has none. Raises OSError: E2BIG when they are more than
    can be sent."""
    path, follow = place
    # of a descriptor nothing can be followed, and saying so is an error
    how = {} if isinstance(path, int) else {"follow_symlinks": follow}
    try:
        names = sorted(os.fsencode(name) for name in os.listxattr(path, **how))
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return []
        raise
    found: list[Xattr] = []
    for name in names:
        if not wants(name):
            continue
        try:
            found.append((name, os.getxattr(path, name, **how)))
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
            # removed since it was listed
    if len(found) > MAX_XATTRS or sum(len(name) + len(value) for name, value in found) > MAX_XATTRS_SIZE:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    return found


def synchronise(what: int | bytes, wanted_now: list[Xattr], wants: Callable[[bytes], bool]) -> OSError | None:
    """Makes those of what is held that `wants` names as they are wanted. The last failure of those in NOT_KEPT; raises
    other OSErrors."""
    failed: OSError | None = None
    place = held(what)
    there, desired = dict(read(place, wants)), dict(wanted_now)
    for name in [name for name in there if name not in desired and name != SELINUX]:
        try:
            os.removexattr(what, name)
        except OSError as error:
            if error.errno not in NOT_KEPT:
                raise
            failed = error
    for name, value in desired.items():
        if there.get(name) == value:
            continue
        try:
            os.setxattr(what, name, value)
        except OSError as error:
            if error.errno not in NOT_KEPT:
                raise
            failed = error
    return failed


def named_ids(value: bytes) -> tuple[list[int], list[int]]:
    """Users and groups that an ACL names; none for what is no ACL."""
    users, groups = [], []
    if len(value) % _ACL_ENTRY.size == _ACL_HEADER.size:
        for tag, _, number in _ACL_ENTRY.iter_unpack(value[_ACL_HEADER.size :]):
            if tag == _ACL_USER:
                users.append(number)
            elif tag == _ACL_GROUP:
                groups.append(number)
    return users, groups


def translate(value: bytes, user: Callable[[int], int], group: Callable[[int], int]) -> bytes:
    """An ACL with the receiver's numbers. Raises RefusedError for what is no ACL."""
    if len(value) % _ACL_ENTRY.size != _ACL_HEADER.size or _ACL_HEADER.unpack_from(value)[0] != _ACL_VERSION:
        raise RefusedError("an ACL that is none is refused")
    entries = []
    for tag, permissions, number in _ACL_ENTRY.iter_unpack(value[_ACL_HEADER.size :]):
        number = user(number) if tag == _ACL_USER else group(number) if tag == _ACL_GROUP else number
        entries.append(_ACL_ENTRY.pack(tag, permissions, number))
    return value[: _ACL_HEADER.size] + b"".join(entries)
