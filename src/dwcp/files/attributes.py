"""What a receiver takes over of an entry's metadata, compares and applies: mode, owner, group, ACLs, attributes, times.

What makes a program run with somebody else's rights, or a name somebody else's, is taken over only by the superuser
where the export allows it; everything else as far as the process may. What could not be kept is counted by kind and
told in the end.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Collection

from dwcp.files import xattrs
from dwcp.files.owners import Mapping
from dwcp.wire.paths import display
from dwcp.wire.tree import ACL, GROUP, MODE, OWNER, TIME, XATTR, Entry, Identities, Xattr

PERMISSIONS = 0o777
BEYOND = 0o7000
"""Set-user-id, set-group-id, sticky: they would let a sender plant programs that run as their owner."""
UNCHANGED = -1
"""For chown(2)."""
NOBODY = 2**32 - 1
"""The same number without a sign: nobody has it."""


class Attributes:
    """Of one transfer. Methods may be called from any thread."""

    def __init__(self, keep: Collection[str], *, privileged: bool, why_not: str = "") -> None:
        """`privileged`: owners, set-user-id bits, devices and security attributes may be taken over, where the process
        is the superuser's; else `why_not` says what to change."""
        self._keep = frozenset(keep)
        superuser = os.geteuid() == 0
        self.full = privileged and superuser
        self.why_not = "" if self.full else why_not if superuser else "the receiver does not run as root"
        kinds = self._keep if self.full else self._keep - {"security"}
        self._wants = xattrs.wanted(kinds)
        self._reads_xattrs = bool(kinds & {"acls", "xattrs", "security"})
        self._bits = PERMISSIONS
        if self.full and "modes" in self._keep:
            # those beyond permissions go along with their owner and group only
            self._bits |= stat.S_ISVTX
            self._bits |= stat.S_ISUID * ("owner" in self._keep) | stat.S_ISGID * ("group" in self._keep)
        self._keeps_ids = bool(self._keep & {"owner", "group"})
        self._mapping = Mapping()
        self._groups = {*os.getgroups(), os.getegid()}
        self._lock = threading.Lock()
        self._notes: dict[tuple[str, str], tuple[int, bytes]] = {}

    def learn(self, users: Identities, groups: Identities) -> bool:
        """Names of the sender's users and groups; false when they are more than any sender tells."""
        return self._mapping.learn(users, groups)

    def mode(self, entry: Entry) -> int:
        """That it gets here."""
        return entry.mode & self._bits

    def _user(self, entry: Entry) -> int:
        if "owner" not in self._keep or entry.uid in (None, NOBODY) or not self.full:
            return UNCHANGED
        return self._mapping.user(entry.uid)

    def _group(self, entry: Entry) -> int:
        if "group" not in self._keep or entry.gid in (None, NOBODY):
            return UNCHANGED
        group = self._mapping.group(entry.gid)
        return group if self.full or (os.geteuid() != 0 and group in self._groups) else UNCHANGED

    def _xattrs(self, entry: Entry) -> list[Xattr]:
        """Raises RefusedError."""
        found = []
        for name, value in entry.xattrs:
            xattrs.check_name(name)
            if self._wants(name):
                if name in xattrs.ACLS:
                    value = xattrs.translate(value, self._mapping.user, self._mapping.group)
                found.append((name, value))
        return found

    def note_what_is_lost(self, entry: Entry) -> None:
        """Counts what of an entry cannot be kept here, whatever the file system does."""
        if not self._keep:
            return
        if "modes" in self._keep and entry.mode & BEYOND & ~self.mode(entry) and entry.type != "symlink":
            self._note("set-user-id, set-group-id and sticky bits", self.why_not, entry)
        owner = self._mapping.user(entry.uid) if "owner" in self._keep and entry.uid is not None else None
        if owner not in (None, os.geteuid()) and not self.full:
            self._note("owners", self.why_not, entry)
        group = self._mapping.group(entry.gid) if "group" in self._keep and entry.gid is not None else None
        if group not in (None, os.getegid()) and self._group(entry) == UNCHANGED:
            self._note("groups", self.why_not, entry)
        if not self.full and any(name.startswith((b"security.", b"trusted.")) for name, _ in entry.xattrs):
            self._note("security.* and trusted.* attributes", self.why_not, entry)

    def differences(self, entry: Entry, status: os.stat_result, place: xattrs.Place) -> int:
        """Bits of `Change.what` for all that `apply` would change. Raises OSError, RefusedError."""
        what = TIME if status.st_mtime_ns != entry.mtime_ns else 0
        if entry.type != "symlink" and stat.S_IMODE(status.st_mode) != self.mode(entry):
            what |= MODE
        if self._keeps_ids:
            what |= OWNER * (self._user(entry) not in (UNCHANGED, status.st_uid))
            what |= GROUP * (self._group(entry) not in (UNCHANGED, status.st_gid))
        if self._reads_xattrs:
            here, there = set(xattrs.read(place, self._wants)), set(self._xattrs(entry))
            for name, _ in here ^ there:
                what |= ACL if name in xattrs.ACLS else XATTR
        return what

    def apply(self, what: int | bytes, entry: Entry, *, mtime_ns: int | None = None, mode: int = 0) -> None:
        """To what is open as `what`, a descriptor or, where that is one of O_PATH, its path (`held_name`). `mode`: bits
        to add for now. Raises OSError, RefusedError."""
        status = os.stat(what)  # noqa: PTH116  (a descriptor, or a path of bytes)
        owner, group = (self._user(entry), self._group(entry)) if self._keeps_ids else (UNCHANGED, UNCHANGED)
        if owner not in (UNCHANGED, status.st_uid) or group not in (UNCHANGED, status.st_gid):
            try:
                os.chown(what, owner, group)
            except PermissionError as error:
                self._note("owners and groups", error.strerror or "", entry)
        if self._reads_xattrs:
            failed = xattrs.synchronise(what, self._xattrs(entry), self._wants)
            if failed is not None:
                self._note("extended attributes and ACLs", failed.strerror or "", entry)
        if not stat.S_ISLNK(status.st_mode):
            # last: chown(2) clears bits of the mode, and an ACL's mask is a part of it
            os.chmod(what, self.mode(entry) | mode)  # noqa: PTH101
        time_ns = entry.mtime_ns if mtime_ns is None else mtime_ns
        os.utime(what, ns=(time_ns, time_ns))

    def settle(self, fd: int, entry: Entry) -> None:
        """Mode and time of a directory that is filled, where they are not as announced yet. Raises OSError."""
        status = os.fstat(fd)
        mode = self.mode(entry)
        if stat.S_IMODE(status.st_mode) != mode:
            os.fchmod(fd, mode)
        if status.st_mtime_ns != entry.mtime_ns:
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _note(self, what: str, why: str, entry: Entry) -> None:
        with self._lock:
            count, first = self._notes.get((what, why), (0, entry.path))
            self._notes[what, why] = (count + 1, first)

    def notes(self) -> list[str]:
        """A line for each kind of metadata that could not be kept."""
        with self._lock:
            return [
                f"{what} of {count} names are not kept: {why}; the first: {display(first)}"
                for (what, why), (count, first) in sorted(self._notes.items())
            ]
