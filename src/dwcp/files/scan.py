"""Lists a tree: each directory before its content, nothing followed, one directory open at a time."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dwcp.errors import DwcpError
from dwcp.files import xattrs
from dwcp.files.root import Parts, Root, failure
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
        self, root: Root, start: Parts, problem: Problem, wants: Callable[[bytes], bool] | None = None
    ) -> None:
        """What cannot be read is told to `problem` and left out. `wants`: which extended attributes are read."""
        self._root = root
        self._start = start
        self._problem = problem
        self._wants = wants

    def __iter__(self) -> Iterator[Found]:
        """Raises NotFoundError, RefusedError or StorageError when `start` itself cannot be read."""
        first = self._first()
        yield first
        if not stat.S_ISDIR(first.stat.st_mode):
            return
        waiting: list[bytes] = [b""]
        while waiting:
            path = waiting.pop()
            below = []
            for found in self._list(path):
                if stat.S_ISDIR(found.stat.st_mode):
                    below.append(found.path)
                yield found
            waiting += sorted(below, reverse=True)

    def _first(self) -> Found:
        try:
            if not self._start:
                return Found(b"", os.fstat(self._root.fd), b"", self._xattrs(xattrs.held(self._root.fd), b""))
            with self._root.directory(self._start[:-1]) as parent:
                return self._look(b"", self._start[-1], parent)
        except OSError as error:
            raise failure(error, "cannot read", b"/".join(self._start)) from error

    def _list(self, path: bytes) -> Iterator[Found]:
        parts = self._start + (tuple(path.split(b"/")) if path else ())
        try:
            with self._root.directory(parts) as fd, os.scandir(fd) as names:
                for entry in names:
                    name = os.fsencode(entry.name)
                    if not parts and name == STAGING:
                        continue
                    child = path + b"/" + name if path else name
                    try:
                        found = self._look(child, name, fd)
                    except OSError as error:
                        self._problem(failure(error, "cannot read", child))
                        continue
                    yield found
        except OSError as error:
            self._problem(failure(error, "cannot list", path or b"."))

    def _look(self, path: bytes, name: bytes, parent: int) -> Found:
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
