"""What of a tree is not file content: directories, links, what has to go, and the times that only hold at the end."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from functools import partial

import xxhash

from dwcp.errors import DwcpError, RefusedError
from dwcp.files.root import FATAL, Directories, Parts, Root, change_mode, failure
from dwcp.files.staging import Staging
from dwcp.transfer.commit import MODE_BITS, apply_metadata, same_metadata
from dwcp.wire.messages import Entry
from dwcp.wire.paths import STAGING, display

OWNER_ALL = 0o700
"""What its owner must be able to do with a directory while it is filled; its own mode follows at the end."""


class TreeKeeper:
    """For one thread. `target` is where the tree's own root goes, below `root`."""

    def __init__(self, root: Root, target: Parts, staging: Staging, *, delete: bool) -> None:
        self._root = root
        self._target = target
        self._staging = staging
        self._delete = delete
        self._directories = Directories(root)
        self._filled: list[tuple[Parts, Entry]] = []
        self._hardlinks: list[tuple[Parts, Parts]] = []
        self._kept: set[int] = set()
        self.deleted = 0

    def close(self) -> None:
        """Gives back what is held; after `finish`, or instead of it."""
        self._directories.forget()

    def held(self, parts: Parts) -> int:
        """The descriptor of a directory, made where missing; borrowed. Raises OSError."""
        return self._directories.get(parts)

    def keep(self, target: Parts) -> None:
        """This name belongs to the tree and is not deleted at the end."""
        if self._delete:
            self._kept.add(_mark(target))

    def place_directory(self, target: Parts, entry: Entry) -> bool:
        """Makes it, or takes the one that is there; true when nothing had to change. Raises OSError, RefusedError."""
        unchanged = bool(target) and self._place_directory(target, entry)
        self._filled.append((target, entry))
        return unchanged

    def _place_directory(self, target: Parts, entry: Entry) -> bool:
        parent, name = self.held(target[:-1]), target[-1]
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            os.mkdir(name, (entry.mode | OWNER_ALL) & MODE_BITS, dir_fd=parent)
            return False
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, (entry.mode | OWNER_ALL) & MODE_BITS, dir_fd=parent)
            return False
        if status.st_mode & OWNER_ALL != OWNER_ALL:
            change_mode(name, parent, stat.S_IMODE(status.st_mode) | OWNER_ALL)
        return same_metadata(status, entry.mode, entry.mtime_ns)

    def place_symlink(self, target: Parts, entry: Entry) -> bool:
        """Makes it under its name in one step; true when it was there. Raises OSError, RefusedError."""
        parent, name = self.held(target[:-1]), target[-1]
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode) and os.readlink(name, dir_fd=parent) == entry.link:
                if status.st_mtime_ns == entry.mtime_ns:
                    return True
                os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
                return False
            self.make_room(status, name, parent, target)
        except FileNotFoundError:
            pass
        temporary = self._staging.new_name()
        os.symlink(entry.link, temporary, dir_fd=self._staging.fd)
        times = (entry.mtime_ns, entry.mtime_ns)
        os.utime(temporary, ns=times, dir_fd=self._staging.fd, follow_symlinks=False)
        self._staging.publish(temporary, name, parent)
        return False

    def place_hardlink(self, target: Parts, first: Parts) -> bool:
        """Remembers it: the first name may not be there yet, or be replaced soon. True when the link stands now."""
        self._hardlinks.append((target, first))
        try:
            one, other = self._root.stat(target), self._root.stat(first)
        except OSError:
            return False
        return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)

    def finish(self, *, complete: bool) -> list[str]:
        """Links, deletions (only when the source was listed and received completely), then modes and times of
        directories, deepest first. One line for each thing that failed; raises only what concerns the whole disk."""
        problems: list[str] = []
        for target, first in self._hardlinks:
            self._try(problems, "cannot link", target, partial(self._link, target, first))
        if self._delete and complete:
            self._try(problems, "cannot clean up", self._target, partial(self._delete_below, self._target))
        for target, entry in reversed(self._filled):
            self._try(problems, "cannot finish", target, partial(self._settle, target, entry))
        return problems

    def _try(self, problems: list[str], doing: str, target: Parts, step: Callable[[], None]) -> None:
        try:
            step()
        except OSError as error:
            if error.errno in FATAL:
                raise
            problems.append(str(failure(error, doing, b"/".join(target))))
        except DwcpError as error:
            problems.append(str(error))

    def _link(self, target: Parts, first: Parts) -> None:
        source, parent = self._root.open_directory(first[:-1]), self.held(target[:-1])
        try:
            origin = os.stat(first[-1], dir_fd=source, follow_symlinks=False)
            try:
                status = os.stat(target[-1], dir_fd=parent, follow_symlinks=False)
                if (status.st_dev, status.st_ino) == (origin.st_dev, origin.st_ino):
                    return
                self.make_room(status, target[-1], parent, target)
            except FileNotFoundError:
                pass
            temporary = self._staging.new_name()
            os.link(first[-1], temporary, src_dir_fd=source, dst_dir_fd=self._staging.fd, follow_symlinks=False)
            self._staging.publish(temporary, target[-1], parent)
        finally:
            os.close(source)

    def make_room(self, status: os.stat_result, name: bytes, parent: int, target: Parts) -> None:
        """A directory in the way of something that is none goes, with --delete, and else is a refusal."""
        if not stat.S_ISDIR(status.st_mode):
            return
        if not self._delete:
            raise RefusedError(
                f"{display(b'/'.join(target))} is a directory here and none at the source; "
                f"remove it, or send with --delete"
            )
        shutil.rmtree(name, dir_fd=parent)

    def _delete_below(self, directory: Parts) -> None:
        try:
            fd = self._root.open_directory(directory)
        except (FileNotFoundError, NotADirectoryError):
            # the target is a single file: nothing is below it
            return
        try:
            with os.scandir(fd) as entries:
                names = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
            for name, is_directory in names:
                child = (*directory, name)
                if child == (STAGING,):
                    continue
                if _mark(child) in self._kept:
                    if is_directory:
                        self._delete_below(child)
                    continue
                self.deleted += 1
                if is_directory:
                    shutil.rmtree(name, dir_fd=fd)
                else:
                    os.unlink(name, dir_fd=fd)
        finally:
            os.close(fd)

    def _settle(self, target: Parts, entry: Entry) -> None:
        fd = self._root.open_directory(target)
        try:
            if not same_metadata(os.fstat(fd), entry.mode, entry.mtime_ns):
                apply_metadata(fd, entry.mode, entry.mtime_ns)
        finally:
            os.close(fd)


def _mark(target: Parts) -> int:
    """Eight bytes stand for a name: a tree of millions is remembered in little memory. That two of a million names
    share a mark, so that one which should go stays, has a chance of one in ten million."""
    return xxhash.xxh3_64_intdigest(b"/".join(target))
