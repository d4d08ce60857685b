"""A directory below which everything happens.

Paths are walked one component at a time from a held descriptor with O_NOFOLLOW (openat(2)), so that no symlink, and no
rename that races with us, leads outside. Path components come from `wire.paths.check_relative`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dwcp.errors import DwcpError, NotFoundError, RefusedError, StorageError
from dwcp.wire.paths import display

Parts = tuple[bytes, ...]

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
HELD_DIRECTORIES = 64
"""Descriptors that one `Directories` keeps open: the depth of a tree plus some siblings."""

_ADVICE = {
    errno.ENOSPC: "the disk is full; free space there and run the same command again, it resumes",
    errno.EDQUOT: "the disk quota is used up; free space there and run the same command again, it resumes",
    errno.EROFS: "the file system is read-only; remount it or choose another export",
    errno.EACCES: "permission denied; give the user that the manager runs as access to it",
    errno.EPERM: "not permitted; give the user that the manager runs as access to it",
    errno.EMFILE: "too many open files; raise LimitNOFILE of the service (ulimit -n)",
    errno.EXDEV: "another file system is mounted inside of the export; export that file system's own directory",
}
FATAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE}
"""What concerns the whole transfer, not one file."""


def failure(error: OSError, doing: str, path: bytes) -> DwcpError:
    """The error to raise for what the operating system refused while `doing` something with `path`."""
    what = f"{doing} {display(path)}"
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return RefusedError(f"{what}: a part of the path is a symlink or no directory, which is never followed")
    if error.errno == errno.ENOENT:
        return NotFoundError(f"{what}: it does not exist")
    return StorageError(f"{what}: {_ADVICE.get(error.errno or 0, error.strerror or str(error))}")


class Root:
    """An open directory; close it when done. Methods give descriptors that the caller closes."""

    def __init__(self, path: Path) -> None:
        """Raises NotFoundError, RefusedError or StorageError."""
        self.path = path
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise failure(error, "cannot open directory", os.fsencode(path)) from error

    def close(self) -> None:
        os.close(self.fd)

    def open_directory(self, parts: Parts, *, create: bool = False) -> int:
        """Raises OSError: ENOENT, or ELOOP and ENOTDIR where a component is no real directory."""
        fd = os.dup(self.fd)
        try:
            for part in parts:
                try:
                    deeper = os.open(part, DIRECTORY_FLAGS, dir_fd=fd)
                except FileNotFoundError:
                    if not create:
                        raise
                    make_directory(part, fd)
                    deeper = os.open(part, DIRECTORY_FLAGS, dir_fd=fd)
                os.close(fd)
                fd = deeper
        except OSError:
            os.close(fd)
            raise
        return fd

    @contextmanager
    def directory(self, parts: Parts, *, create: bool = False) -> Iterator[int]:
        """`open_directory` for a `with` block."""
        fd = self.open_directory(parts, create=create)
        try:
            yield fd
        finally:
            os.close(fd)

    def stat(self, parts: Parts) -> os.stat_result:
        """Of the name itself, never of what a symlink points to. Raises OSError."""
        if not parts:
            return os.fstat(self.fd)
        with self.directory(parts[:-1]) as parent:
            return os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)

    def open_file(self, parts: Parts) -> int:
        """A regular file, to read. Raises OSError, or RefusedError for anything that is not one."""
        with self.directory(parts[:-1]) as parent:
            return open_regular(parts[-1], parent)


def open_regular(name: bytes, parent: int, flags: int = os.O_RDONLY) -> int:
    """Opens a regular file in a held directory. O_NONBLOCK keeps a FIFO from holding us up before it is recognised."""
    fd = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise RefusedError(f"{display(name)} is not a regular file")
    return fd


@contextmanager
def held_name(name: bytes, parent: int, *, directory: bool = False) -> Iterator[bytes]:
    """Whatever has a name in a held directory, a symlink too, without opening its content, which its mode may forbid: a
    path that leads to just that, and for which a symlink counts as any other file. Raises OSError: ENOTDIR where it has
    to be a directory and is none."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_DIRECTORY * directory, dir_fd=parent)
    try:
        yield b"/proc/self/fd/%d" % fd
    finally:
        os.close(fd)


def make_directory(name: bytes, parent: int) -> None:
    """Makes a directory; another thread may have been faster."""
    try:
        os.mkdir(name, dir_fd=parent)
    except FileExistsError:
        return


class Directories:
    """Descriptors of the directories used last, below a root. For one thread; what it returns is borrowed until
    HELD_DIRECTORIES other ones were asked for."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._held: OrderedDict[Parts, int] = OrderedDict()

    def get(self, parts: Parts) -> int:
        """Made where missing. Raises OSError as `Root.open_directory`."""
        fd = self._held.get(parts)
        if fd is not None:
            self._held.move_to_end(parts)
            return fd
        fd = self._root.open_directory(parts, create=True)
        self._held[parts] = fd
        if len(self._held) > HELD_DIRECTORIES:
            os.close(self._held.popitem(last=False)[1])
        return fd

    def forget(self) -> None:
        """Closes all, where directories may have been replaced."""
        while self._held:
            os.close(self._held.popitem()[1])
