"""Lists a tree: each directory before its content, nothing followed, one directory open at a time."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dwcp.errors import DwcpError
from dwcp.files.root import Parts, Root, failure
from dwcp.wire.paths import STAGING

Problem = Callable[[DwcpError], None]


@dataclass(frozen=True, slots=True)
class Found:
    """One name of the tree: its path relative to where the scan began, and its stat. `link`: of a symlink."""

    path: bytes
    stat: os.stat_result
    link: bytes = b""


def scan(root: Root, start: Parts, problem: Problem) -> Iterator[Found]:
    """Everything at and below `start`. What cannot be read is told to `problem` and left out.

    Raises NotFoundError, RefusedError or StorageError when `start` itself cannot be read.
    """
    try:
        status = root.stat(start)
        link = _read_link(root, start) if stat.S_ISLNK(status.st_mode) else b""
    except OSError as error:
        raise failure(error, "cannot read", b"/".join(start)) from error
    yield Found(b"", status, link)
    if not stat.S_ISDIR(status.st_mode):
        return
    waiting: list[bytes] = [b""]
    while waiting:
        path = waiting.pop()
        below = []
        for found in _list(root, start, path, problem):
            if stat.S_ISDIR(found.stat.st_mode):
                below.append(found.path)
            yield found
        waiting += sorted(below, reverse=True)


def _list(root: Root, start: Parts, path: bytes, problem: Problem) -> Iterator[Found]:
    parts = start + (tuple(path.split(b"/")) if path else ())
    try:
        with root.directory(parts) as fd, os.scandir(fd) as names:
            for entry in names:
                name = os.fsencode(entry.name)
                if not parts and name == STAGING:
                    continue
                child = path + b"/" + name if path else name
                try:
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    link = os.readlink(name, dir_fd=fd) if stat.S_ISLNK(status.st_mode) else b""
                except OSError as error:
                    problem(failure(error, "cannot read", child))
                    continue
                yield Found(child, status, link)
    except OSError as error:
        problem(failure(error, "cannot list", path or b"."))


def _read_link(root: Root, parts: Parts) -> bytes:
    with root.directory(parts[:-1]) as parent:
        return os.readlink(parts[-1], dir_fd=parent)
