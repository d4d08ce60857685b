"""What of a tree is not file content: directories, links, what has to go, and the times that only hold at the end."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from functools import partial

import xxhash
from msgspec.structs import replace

from dwcp.errors import DwcpError, RefusedError
from dwcp.files import special, xattrs
from dwcp.files.attributes import Attributes
from dwcp.files.root import FATAL, Directories, Parts, Root, failure, held_name
from dwcp.files.staging import Staging
from dwcp.wire.messages import Entry
from dwcp.wire.paths import STAGING, display
from dwcp.wire.tree import CONTENT, NEW, TIME

OWNER_ALL = 0o700
"""What its owner must be able to do with a directory while it is filled; its own mode follows at the end."""


class TreeKeeper:
    """For one thread. `target` is where the tree's own root goes, below `root`."""

    def __init__(self, root: Root, target: Parts, staging: Staging, attributes: Attributes, *, delete: bool) -> None:
        self._root = root
        self._target = target
        self._staging = staging
        self._attributes = attributes
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

    def place_directory(self, target: Parts, entry: Entry) -> int:
        """Makes it, or takes the one that is there. Bits of `Change.what`. Raises OSError, RefusedError."""
        if target:
            what = self._place_directory(target, entry)
        else:
            what = self._attributes.differences(entry, os.fstat(self._root.fd), xattrs.held(self._root.fd))
            if what & ~TIME:
                self._attributes.apply(self._root.fd, entry, mode=OWNER_ALL)
        # until the end only mode and time are of interest
        self._filled.append((target, replace(entry, xattrs=[]) if entry.xattrs else entry))
        return what

    def _place_directory(self, target: Parts, entry: Entry) -> int:
        parent, name = self.held(target[:-1]), target[-1]
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            what = NEW
        else:
            if stat.S_ISDIR(status.st_mode):
                what = self._attributes.differences(entry, status, xattrs.below(parent, name))
            else:
                os.unlink(name, dir_fd=parent)
                what = NEW
        if what & NEW:
            os.mkdir(name, OWNER_ALL, dir_fd=parent)
        elif status.st_mode & OWNER_ALL == OWNER_ALL and not what & ~TIME:
            return what
        with held_name(name, parent, directory=True) as fd:
            self._attributes.apply(fd, entry, mode=OWNER_ALL)
        return what

    def place_link_or_special(self, target: Parts, entry: Entry) -> int:
        """Makes a symlink, FIFO, socket or device under its name in one step, where it is not there. Bits of
        `Change.what`. Raises OSError, RefusedError."""
        parent, name = self.held(target[:-1]), target[-1]
        what = NEW
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if special.is_as_announced(entry, status, name, parent):
                what = self._attributes.differences(entry, status, xattrs.below(parent, name))
                if not what or self.adjust(name, parent, entry, status):
                    return what
            else:
                what = CONTENT
            self.make_room(status, name, parent, target)
        except FileNotFoundError:
            pass
        temporary = self._staging.new_name()
        special.make(entry, temporary, self._staging.fd, self._attributes)
        with held_name(temporary, self._staging.fd) as fd:
            self._attributes.apply(fd, entry)
        self._staging.publish(temporary, name, parent)
        return what

    def adjust(self, name: bytes, parent: int, entry: Entry, seen: os.stat_result) -> bool:
        """Gives what was `seen` there the metadata that was announced. False for what has other names too: they may be
        outside of the export. Raises OSError; RefusedError also where something else is there now."""
        with held_name(name, parent) as fd:
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) != (seen.st_dev, seen.st_ino):
                raise RefusedError(f"{display(entry.path)} was replaced by something else just now; send it again")
            if status.st_nlink > 1:
                return False
            self._attributes.apply(fd, entry)
            return True

    def place_hardlink(self, target: Parts, first: Parts) -> int:
        """Remembers it: the first name may not be there yet, or be replaced soon. 0 when the link stands now."""
        self._hardlinks.append((target, first))
        try:
            one = self._root.stat(target)
        except OSError:
            return NEW
        try:
            other = self._root.stat(first)
        except OSError:
            return CONTENT
        return CONTENT * ((one.st_dev, one.st_ino) != (other.st_dev, other.st_ino))

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
            self._attributes.settle(fd, entry)
        finally:
            os.close(fd)


def _mark(target: Parts) -> int:
    """Eight bytes stand for a name: a tree of millions is remembered in little memory. That two of a million names
    share a mark, so that one which should go stays, has a chance of one in ten million."""
    return xxhash.xxh3_64_intdigest(b"/".join(target))
