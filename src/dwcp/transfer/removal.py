"""Deletes at the receiver what the source does not have: only what no rule protects, and no more than was allowed.

Directories are walked with a stack of paths, each opened anew from the root: a peer may have made deeper trees than a
process has descriptors or Python has frames for.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass

from dwcp.errors import DwcpError
from dwcp.files import merge
from dwcp.files.root import FATAL, Parts, Root, failure
from dwcp.files.special import KINDS
from dwcp.filters.rules import Level
from dwcp.transfer.backup import Backup
from dwcp.wire.paths import STAGING
from dwcp.wire.tree import DELETED, Change

Told = Callable[[Change], None]


@dataclass(frozen=True, slots=True)
class _Visit:
    """A directory on the stack: to be looked into; or, `leaving`, to be removed after its content."""

    parts: Parts
    level: Level | None
    dying: bool
    leaving: bool = False


class Removal:
    """Of one transfer; methods may be called from any thread, one at a time."""

    def __init__(
        self,
        root: Root,
        target: Parts,
        level: Level | None,
        backup: Backup | None,
        told: Told,
        *,
        most: int | None,
        pretend: bool,
    ) -> None:
        """`level`: rules above the tree's root; `most`: names that may be deleted; `pretend`: nothing is."""
        self._root = root
        self._target = target
        self._level = level
        self._backup = backup
        self._told = told
        self._most = most
        self._pretend = pretend
        self._lock = threading.Lock()
        self._occupied: set[Parts] = set()
        self._spared = 0
        self.deleted = 0
        self.problems: list[str] = []

    def below_target(self, kept: Callable[[Parts], bool]) -> None:
        """Everything that is not `kept`. Raises OSError for what concerns the whole disk."""
        with self._lock:
            self._walk(_Visit(self._target, self._level, dying=False), kept)
            if self._spared:
                self.problems.append(
                    f"{self._spared} names are not deleted: no more than {self._most} were allowed (--max-delete)"
                )

    def tree(self, parts: Parts) -> None:
        """A directory that is in the way, with all that no rule protects. Raises as `below_target`."""
        with self._lock:
            # rules in files of the directories above it count as well, which are those of the whole tree
            level = self._level
            try:
                for depth in range(len(self._target), len(parts)):
                    with self._root.directory(parts[:depth]) as fd:
                        level = self._enter(level, parts[:depth], fd)
            except OSError as error:
                self._failed(error, parts)
                return
            stack = [_Visit(parts, level, True, leaving=True), _Visit(parts, level, True)]
            self._run(stack, _nothing)

    def _walk(self, first: _Visit, kept: Callable[[Parts], bool]) -> None:
        self._run([first], kept)

    def _run(self, stack: list[_Visit], kept: Callable[[Parts], bool]) -> None:
        while stack:
            visit = stack.pop()
            try:
                if visit.leaving:
                    self._leave(visit.parts)
                else:
                    stack += self._look_into(visit, kept)
            except OSError as error:
                self._failed(error, visit.parts)
            except DwcpError as error:
                self._occupy(visit.parts)
                self.problems.append(str(error))

    def _failed(self, error: OSError, parts: Parts) -> None:
        if error.errno in FATAL:
            raise error
        self._occupy(parts)
        if parts != self._target or error.errno not in (errno.ENOENT, errno.ENOTDIR):
            # of the target itself: a single file, or nothing yet, has nothing below it
            self.problems.append(str(failure(error, "cannot delete", b"/".join(parts))))

    def _enter(self, level: Level | None, parts: Parts, fd: int) -> Level | None:
        return merge.enter(level, b"/".join(parts[len(self._target) :]), fd) if level is not None else None

    def _look_into(self, visit: _Visit, kept: Callable[[Parts], bool]) -> list[_Visit]:
        """Deletes what is no directory; the directories that have to be looked into next."""
        further: list[_Visit] = []
        with self._root.directory(visit.parts) as fd:
            level = self._enter(visit.level, visit.parts, fd)
            with os.scandir(fd) as entries:
                names = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
            for name, directory in names:
                child = (*visit.parts, name)
                if child == (STAGING,):
                    continue
                if kept(child):
                    if directory:
                        further.append(_Visit(child, level, dying=False))
                elif self._protected(child, level, directory=directory, dying=visit.dying):
                    self._occupy(visit.parts)
                elif directory:
                    further += [_Visit(child, level, True, leaving=True), _Visit(child, level, dying=True)]
                else:
                    self._delete(name, fd, child)
        return further

    def _protected(self, child: Parts, level: Level | None, *, directory: bool, dying: bool) -> bool:
        if self._backup is not None and self._backup.protects(child[-1], child):
            return True
        path = b"/".join(child[len(self._target) :])
        return level is not None and level.excludes(path, directory=directory, dying=dying)

    def _occupy(self, parts: Parts) -> None:
        """What is in there stays, so the directory does too."""
        self._occupied.add(parts)

    def _leave(self, parts: Parts) -> None:
        if parts in self._occupied:
            self._occupied.discard(parts)
            self._occupy(parts[:-1])
            return
        with self._root.directory(parts[:-1]) as parent:
            self._delete(parts[-1], parent, parts)

    def _delete(self, name: bytes, parent: int, parts: Parts) -> None:
        if self._most is not None and self.deleted >= self._most:
            self._spared += 1
            self._occupy(parts[:-1])
            return
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        directory = stat.S_ISDIR(status.st_mode)
        try:
            if not self._pretend:
                if directory:
                    os.rmdir(name, dir_fd=parent)
                elif self._backup is not None:
                    self._backup.keep(name, parent, parts, moves=True)
                    if self._backup.directory is None:
                        self._occupy(parts[:-1])
                else:
                    os.unlink(name, dir_fd=parent)
        except OSError as error:
            self._failed(error, parts)
            self._occupy(parts[:-1])
            return
        self.deleted += 1
        path = b"/".join(parts[len(self._target) :])
        self._told(Change(path, KINDS.get(stat.S_IFMT(status.st_mode), "file"), DELETED))


def _nothing(parts: Parts) -> bool:
    """Of a directory in the way, nothing is kept."""
    return False
