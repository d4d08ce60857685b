"""Lists a tree: each directory before its content, nothing followed, one directory open at a time."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter

from dwcp.errors import DwcpError
from dwcp.files import merge, xattrs
from dwcp.files.root import Parts, Root, failure
from dwcp.filters.rules import Level
from dwcp.wire.paths import STAGING
from dwcp.wire.tree import Xattr

Problem = Callable[[DwcpError], None]


@dataclass(frozen=True, slots=True)
class Found:
    """One name of the tree: its path relative to where the scan began, and its stat. `link`: of a symlink."""

    path: bytes
    stat: os.stat_result
    link: bytes = b""
    xattrs: tuple[Xattr, ...] = ()


class Scan:
    """Everything at and below `start`."""

    def __init__(
        self,
        root: Root,
        start: Parts,
        problem: Problem,
        wants: Callable[[bytes], bool] | None = None,
        level: Level | None = None,
        *,
        one_file_system: bool = False,
    ) -> None:
        """What cannot be read is told to `problem` and left out. `wants`: which extended attributes are read. `level`:
        rules that leave names out. `one_file_system`: what is mounted below `start` is left out."""
        self._root = root
        self._start = start
        self._problem = problem
        self._wants = wants
        self._level = level
        self._one_file_system = one_file_system
        self._device = -1

    def __iter__(self) -> Iterator[Found]:
        """Raises NotFoundError, RefusedError or StorageError when `start` itself cannot be read, and whatever a file of
        rules that cannot be used raises."""
        first = self.first()
        yield first
        if not stat.S_ISDIR(first.stat.st_mode):
            return
        self._device = first.stat.st_dev
        waiting: list[tuple[bytes, Level | None]] = [(b"", self._level)]
        while waiting:
            path, level = waiting.pop()
            below = []
            for found, inside in self._list(path, level):
                if stat.S_ISDIR(found.stat.st_mode):
                    below.append((found.path, inside))
                yield found
            waiting += sorted(below, key=itemgetter(0), reverse=True)

    def first(self) -> Found:
        """`start` itself. Raises NotFoundError, RefusedError or StorageError."""
        try:
            if not self._start:
                return Found(b"", os.fstat(self._root.fd), b"", self._xattrs(xattrs.held(self._root.fd), b""))
            with self._root.directory(self._start[:-1]) as parent:
                return self.look(b"", self._start[-1], parent)
        except OSError as error:
            raise failure(error, "cannot read", b"/".join(self._start)) from error

    def _list(self, path: bytes, level: Level | None) -> Iterator[tuple[Found, Level | None]]:
        """What is in a directory, with the rules for what is in it."""
        parts = self._start + (tuple(path.split(b"/")) if path else ())
        try:
            with self._root.directory(parts) as fd, os.scandir(fd) as names:
                if level is not None:
                    level = merge.enter(level, path, fd)
                rules = level if level is not None and level.rules else None
                for entry in names:
                    name = os.fsencode(entry.name)
                    if not parts and name == STAGING:
                        continue
                    child = path + b"/" + name if path else name
                    if rules is not None and rules.excludes(child, directory=entry.is_dir(follow_symlinks=False)):
                        continue
                    try:
                        found = self.look(child, name, fd)
                    except OSError as error:
                        self._problem(failure(error, "cannot read", child))
                        continue
                    if not self._one_file_system or found.stat.st_dev == self._device:
                        yield found, level
        except OSError as error:
            self._problem(failure(error, "cannot list", path or b"."))

    def look(self, path: bytes, name: bytes, parent: int) -> Found:
        """A name in a held directory. Raises OSError."""
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        link = os.readlink(name, dir_fd=parent) if stat.S_ISLNK(status.st_mode) else b""
        return Found(path, status, link, self._xattrs(xattrs.below(parent, name), path))

    def _xattrs(self, place: xattrs.Place, path: bytes) -> tuple[Xattr, ...]:
        if self._wants is None:
            return ()
        try:
            return tuple(xattrs.read(place, self._wants))
        except OSError as error:
            self._problem(failure(error, "cannot read the extended attributes of", path))
            return ()
