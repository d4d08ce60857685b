"""What of a tree is no content: directories, links, special files, what has to go, and the times that only hold at the
end."""

from __future__ import annotations

import contextlib
import os
import stat
import unicodedata
from collections.abc import Callable
from functools import partial

import xxhash
from msgspec.structs import replace

from dwcp.errors import DwcpError, RefusedError
from dwcp.files import special, xattrs
from dwcp.files.attributes import Attributes
from dwcp.files.root import FATAL, Directories, Parts, Root, failure, held_name
from dwcp.files.staging import Staging
from dwcp.transfer.backup import Backup
from dwcp.transfer.look import look
from dwcp.transfer.removal import Removal
from dwcp.wire.messages import Entry
from dwcp.wire.paths import display
from dwcp.wire.tree import CONTENT, NEW, TIME

OWNER_ALL = 0o700
"""What its owner must be able to do with a directory while it is filled; its own mode follows at the end."""


class TreeKeeper:
    """For one thread, but for `replacing` and `make_room`. `target` is where the tree's own root goes, below `root`."""

    def __init__(
        self,
        root: Root,
        target: Parts,
        staging: Staging,
        attributes: Attributes,
        removal: Removal | None,
        backup: Backup | None,
    ) -> None:
        """`removal`: of what the source does not have, where that was asked for."""
        self._root = root
        self._target = target
        self._staging = staging
        self._attributes = attributes
        self._removal = removal
        self._backup = backup
        self._directories = Directories(root)
        self._filled: list[tuple[Parts, Entry]] = []
        self._hardlinks: list[tuple[Parts, Parts]] = []
        self._kept: set[int] = set()
        self._folded: dict[int, int] | None = {} if staging.ignores_case else None
        """Marks of the names so far, by marks of their form without case, where that makes no difference."""

    def close(self) -> None:
        """Gives back what is held; after `finish`, or instead of it."""
        self._directories.forget()
        if self._backup is not None:
            self._backup.close()

    @property
    def deleted(self) -> int:
        return self._removal.deleted if self._removal is not None else 0

    def held(self, parts: Parts) -> int:
        """The descriptor of a directory, made where missing; borrowed. Raises OSError."""
        return self._directories.get(parts)

    def keep(self, target: Parts) -> None:
        """This name belongs to the tree and is not deleted at the end."""
        if self._removal is not None:
            self._kept.add(_mark(target))

    def check_case(self, target: Parts) -> None:
        """Raises RefusedError for a name that would replace another one of the tree."""
        if self._folded is None:
            return
        folded = _mark(tuple(_without_case(part) for part in target))
        if self._folded.setdefault(folded, _mark(target)) != _mark(target):
            raise RefusedError(
                f"{display(b'/'.join(target))} differs from another name only in case, and the file system here takes "
                f"them for one; rename one of them"
            )

    def replacing(self, name: bytes, parent: int, target: Parts) -> None:
        """What has this name gets another one next, or is overwritten: keeps it where that was asked for. Raises
        OSError, RefusedError."""
        if self._backup is not None:
            self._backup.keep(name, parent, target)

    def publish(self, temporary: bytes, name: bytes, parent: int, target: Parts) -> None:
        """Gives what waits in the staging directory its final name. Raises OSError, RefusedError."""
        self.replacing(name, parent, target)
        self._staging.publish(temporary, name, parent)

    def place_directory(self, target: Parts, entry: Entry) -> int:
        """Makes it, or takes the one that is there. Bits of `Change.what`. Raises OSError, RefusedError."""
        what = self._place_directory(target, entry) if target else self._take_root(entry)
        # until the end only mode and time are of interest
        self._filled.append((target, replace(entry, xattrs=[]) if entry.xattrs else entry))
        return what

    def _take_root(self, entry: Entry) -> int:
        what = self.root_differences(entry)
        if what & ~TIME:
            self._attributes.apply(self._root.fd, entry, mode=OWNER_ALL)
        return what

    def root_differences(self, entry: Entry) -> int:
        """Of the export itself, where that is the target. Raises OSError, RefusedError."""
        return self._attributes.differences(entry, os.fstat(self._root.fd), xattrs.held(self._root.fd))

    def _place_directory(self, target: Parts, entry: Entry) -> int:
        parent, name = self.held(target[:-1]), target[-1]
        what, status = look(entry, name, parent, self._attributes)
        if what & NEW:
            if status is not None:
                self.replacing(name, parent, target)
                os.unlink(name, dir_fd=parent)
            with contextlib.suppress(FileExistsError):
                # else another transfer has made it just now
                os.mkdir(name, OWNER_ALL, dir_fd=parent)
        elif not what & ~TIME and status is not None and status.st_mode & OWNER_ALL == OWNER_ALL:
            return what
        with held_name(name, parent, directory=True) as held:
            self._attributes.apply(held, entry, mode=OWNER_ALL)
        return what

    def place_link_or_special(self, target: Parts, entry: Entry) -> int:
        """Makes a symlink, FIFO, socket or device under its name in one step, where it is not there. Bits of
        `Change.what`. Raises OSError, RefusedError."""
        parent, name = self.held(target[:-1]), target[-1]
        what, status = look(entry, name, parent, self._attributes)
        if status is not None and not what & (NEW | CONTENT) and (not what or self.adjust(name, parent, entry, status)):
            return what
        self.make_room(status, target)
        temporary = self._staging.new_name()
        special.make(entry, temporary, self._staging.fd, self._attributes)
        with held_name(temporary, self._staging.fd) as held:
            self._attributes.apply(held, entry)
        self.publish(temporary, name, parent, target)
        return what

    def adjust(self, name: bytes, parent: int, entry: Entry, seen: os.stat_result) -> bool:
        """Gives what was `seen` there the metadata that was announced. False for what has other names too: they may be
        outside of the export. Raises OSError; RefusedError also where something else is there now."""
        with held_name(name, parent) as held:
            status = os.stat(held)  # noqa: PTH116  (a path of bytes)
            if _identity(status) != _identity(seen):
                raise RefusedError(f"{display(entry.path)} was replaced by something else just now; send it again")
            if status.st_nlink > 1:
                return False
            self._attributes.apply(held, entry)
            return True

    def place_hardlink(self, target: Parts, first: Parts) -> int:
        """Remembers it: the first name may not be there yet, or be replaced soon. 0 when the link stands now."""
        self._hardlinks.append((target, first))
        return self.link_difference(target, first)

    def link_difference(self, target: Parts, first: Parts) -> int:
        """0 where both names are those of one file."""
        try:
            one = self._root.stat(target)
        except OSError:
            return NEW
        try:
            other = self._root.stat(first)
        except OSError:
            return CONTENT
        return CONTENT * ((one.st_dev, one.st_ino) != (other.st_dev, other.st_ino))

    def delete(self) -> list[str]:
        """What the tree does not have, where that was asked for. One line for each thing that failed; raises only what
        concerns the whole disk."""
        if self._removal is None:
            return []
        self._directories.forget()
        self._removal.below_target(lambda parts: _mark(parts) in self._kept)
        return self._removal.problems

    def finish(self, *, complete: bool) -> list[str]:
        """Links, deletions (only when the source was listed and received completely), then modes and times of
        directories, deepest first. Returns and raises as `delete`."""
        problems: list[str] = []
        for target, first in self._hardlinks:
            self._try(problems, "cannot link", target, partial(self._link, target, first))
        if complete:
            problems += self.delete()
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
                self.make_room(status, target)
            except FileNotFoundError:
                pass
            temporary = self._staging.new_name()
            os.link(first[-1], temporary, src_dir_fd=source, dst_dir_fd=self._staging.fd, follow_symlinks=False)
            self.publish(temporary, target[-1], parent, target)
        finally:
            os.close(source)

    def make_room(self, status: os.stat_result | None, target: Parts) -> None:
        """A directory in the way of something that is none goes, with --delete, and else is a refusal."""
        if status is None or not stat.S_ISDIR(status.st_mode):
            return
        if self._removal is None:
            raise RefusedError(
                f"{display(b'/'.join(target))} is a directory here and none at the source; "
                f"remove it, or send with --delete"
            )
        self._removal.tree(target)

    def _settle(self, target: Parts, entry: Entry) -> None:
        fd = self._root.open_directory(target)
        try:
            self._attributes.settle(fd, entry)
        finally:
            os.close(fd)


def _without_case(name: bytes) -> bytes:
    return os.fsencode(unicodedata.normalize("NFD", os.fsdecode(name)).casefold())


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    """An inode's number alone is given to the next file as soon as the last one is gone."""
    return status.st_dev, status.st_ino, stat.S_IFMT(status.st_mode), status.st_ctime_ns


def _mark(target: Parts) -> int:
    """Eight bytes stand for a name: a tree of millions is remembered in little memory. That two of a million names
    share a mark, so that one which should go stays, has a chance of one in ten million."""
    return xxhash.xxh3_64_intdigest(b"/".join(target))
