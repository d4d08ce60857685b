"""Users and groups by name: who they are at the sender, and who has that name at the receiver."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable

from dwcp.files import xattrs
from dwcp.wire.tree import MAX_IDENTITIES, MAX_XATTRS, Entry, Identities


class Names:
    """At the sender: the names of users and groups that entries are the first to mention."""

    def __init__(self) -> None:
        self._users: set[int] = set()
        self._groups: set[int] = set()

    def of(self, entries: list[Entry]) -> tuple[Identities, Identities]:
        """Users and groups, each told once in a transfer; those without a name never."""
        users: set[int] = set()
        groups: set[int] = set()
        for entry in entries:
            users |= {entry.uid} if entry.uid is not None else set()
            groups |= {entry.gid} if entry.gid is not None else set()
            for name, value in entry.xattrs:
                if name in xattrs.ACLS:
                    named_users, named_groups = xattrs.named_ids(value)
                    users.update(named_users)
                    groups.update(named_groups)
        return _told(users, self._users, _user_name), _told(groups, self._groups, _group_name)


def _told(mentioned: set[int], known: set[int], name_of: Callable[[int], bytes]) -> Identities:
    told: Identities = []
    for number in sorted(mentioned - known)[:MAX_XATTRS]:
        if len(known) < MAX_IDENTITIES:
            known.add(number)
            name = name_of(number)
            if 0 < len(name) <= 256:
                told.append((number, name))
    return told


class Mapping:
    """At the receiver: numbers of the sender to numbers here. The superuser is the superuser everywhere, as with
    rsync(1); who has no namesake here keeps the number."""

    def __init__(self) -> None:
        self._users: dict[int, int] = {}
        self._groups: dict[int, int] = {}

    def learn(self, users: Identities, groups: Identities) -> bool:
        """False when they are more than any sender tells."""
        for number, name in users:
            self._users[number] = _user_number(name, number) if number else 0
        for number, name in groups:
            self._groups[number] = _group_number(name, number) if number else 0
        return max(len(self._users), len(self._groups)) <= MAX_IDENTITIES

    def user(self, number: int) -> int:
        return self._users.get(number, number)

    def group(self, number: int) -> int:
        return self._groups.get(number, number)


def _user_name(number: int) -> bytes:
    try:
        return os.fsencode(pwd.getpwuid(number).pw_name)
    except (KeyError, OverflowError):
        return b""


def _group_name(number: int) -> bytes:
    try:
        return os.fsencode(grp.getgrgid(number).gr_name)
    except (KeyError, OverflowError):
        return b""


def _user_number(name: bytes, otherwise: int) -> int:
    try:
        return pwd.getpwnam(os.fsdecode(name)).pw_uid
    except (KeyError, ValueError):
        # ValueError: a name with a zero byte
        return otherwise


def _group_number(name: bytes, otherwise: int) -> int:
    try:
        return grp.getgrnam(os.fsdecode(name)).gr_gid
    except (KeyError, ValueError):
        return otherwise
