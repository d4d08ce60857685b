"""Makes a version of what is at a path now, sharing with the version before what did not change."""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from dwcp.errors import DwcpError, RefusedError, StorageError
from dwcp.files.root import DIRECTORY_FLAGS, Directories, Parts, Root, failure, open_regular
from dwcp.files.staging import sync_file_system
from dwcp.store import durable
from dwcp.versions import copying, manifest
from dwcp.versions.manifest import Entry, Summary, Writer, quoted
from dwcp.versions.store import MAX_VERSIONS, Version, VersionStore, remove_tree
from dwcp.versions.walk import Walked, changed, order, walk

OWNER_ALL = 0o700
TREE = b"tree"
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Made:
    """`fresh`: false where nothing has changed since `version`, which is then the one before. `pruned`: versions that
    were removed by the rules."""

    version: Version
    fresh: bool
    pruned: int


def make_version(
    store: VersionStore, owner: str, keep: Mapping[str, int], now: datetime.datetime, heir_of: str = ""
) -> Made:
    """A version of now, where anything differs from the newest; then removes what `keep` does not keep.

    Raises NotFoundError where nothing is at the path, TemporaryError where it changes meanwhile, RefusedError where the
    path is another peer's or has too many versions, StorageError.
    """
    with store.locked(owner, heir_of):
        found = store.find()
        newest = found[-1] if found else None
        if newest is not None:
            # a clock that was set back must not make the newest version the first to go
            now = max(now, newest.summary.taken_at)
        if newest is not None and not manifest.is_whole(newest.manifest, newest.summary.digest):
            # nothing can be told by it; the next check says so
            newest = None
        try:
            fresh = newest is None or _differs(store, newest)
            if fresh:
                if len(found) >= MAX_VERSIONS:
                    raise RefusedError(f"there are {len(found)} versions already; keep fewer (keep: last 100)")
                newest = _build(store, newest, now)
        except OSError as error:
            raise failure(error, "cannot make a version of", b"/".join(store.target)) from error
        if newest is None:
            raise StorageError("a version was made and is not there")
        return Made(newest, fresh, store.prune(keep))


class _Before:
    """The manifest of the version before, read along with a walk; `with` closes it."""

    def __init__(self, version: Version | None) -> None:
        self._entries = manifest.read(version.manifest, version.summary.digest) if version is not None else None
        self._next = self._advance()

    def __enter__(self) -> _Before:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        if self._entries is not None:
            self._entries.close()

    def take(self, parts: Parts) -> Entry | None:
        """The entry of this name; those in between are left out. For ascending names."""
        while self._next is not None and order(self._next.parts) < order(parts):
            self._next = self._advance()
        if self._next is None or self._next.parts != parts:
            return None
        found, self._next = self._next, self._advance()
        return found

    def _advance(self) -> Entry | None:
        return next(self._entries, None) if self._entries is not None else None


def _differs(store: VersionStore, newest: Version) -> bool:
    """Whether the live names are others than the newest version's, without reading any content: a file is what it was
    while inode and ctime are the same."""
    count = 0
    links: dict[tuple[int, int], Parts] = {}
    with _Before(newest) as before, contextlib.closing(walk(store.root, store.target)) as names:
        for walked in names:
            entry = _describe(walked, links)
            if entry is None:
                continue
            count += 1
            was = before.take(walked.parts)
            if was is None or not _same(entry, was):
                return True
    return count != newest.summary.entries


def _same(entry: Entry, was: Entry) -> bool:
    if entry.type != was.type:
        return False
    if entry.type == "file":
        return entry.seen == was.seen
    return entry == was


def _describe(walked: Walked, links: dict[tuple[int, int], Parts]) -> Entry | None:
    """Without the hash of a file; None for what no version holds (sockets, FIFOs, devices). `links`: first names of
    files that have several. Raises OSError."""
    status = walked.status
    path, kind = quoted(walked.parts), stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG and status.st_nlink > 1:
        first = links.setdefault((status.st_dev, status.st_ino), walked.parts)
        if first != walked.parts:
            return Entry(path, "hardlink", link=quoted(first))
    about = Entry(path, "", stat.S_IMODE(status.st_mode), status.st_mtime_ns, status.st_uid, status.st_gid)
    if kind == stat.S_IFREG:
        seen = (status.st_ino, status.st_ctime_ns)
        return msgspec.structs.replace(about, type="file", size=status.st_size, seen=seen)
    if kind == stat.S_IFLNK:
        link = quoted((os.readlink(walked.name, dir_fd=walked.directory),))
        return msgspec.structs.replace(about, type="symlink", link=link)
    if kind == stat.S_IFDIR:
        fd = os.open(walked.name, DIRECTORY_FLAGS, dir_fd=walked.directory)
        try:
            return msgspec.structs.replace(about, type="dir", xattrs=copying.xattrs(fd))
        finally:
            os.close(fd)
    return None


def _build(store: VersionStore, before: Version | None, now: datetime.datetime) -> Version:
    name = store.new_id(now)
    made = store.directory / f".{name}"
    made.mkdir(mode=0o700)
    try:
        with _Builder(store, before, made) as builder:
            summary = builder.build(now)
        durable.create(made / "summary", manifest.sealed(summary))
        durable.sync_directory(made)
        made.rename(store.directory / name)
        durable.sync_directory(store.directory)
    except (OSError, DwcpError):
        remove_tree(made)
        raise
    return store.get(name)


class _Builder:
    """Fills the directory of a new version; `with` gives back what it holds. Its methods raise OSError."""

    def __init__(self, store: VersionStore, before: Version | None, made: Path) -> None:
        self._store = store
        self._path = made
        self._clones = copying.can_clone(made)
        self._links: dict[tuple[int, int], Parts] = {}
        with contextlib.ExitStack() as held:
            self._before = held.enter_context(_Before(before))
            self._made = Root(made)
            held.callback(self._made.close)
            self._directories = Directories(self._made)
            held.callback(self._directories.forget)
            self._writer = Writer(made / "manifest")
            held.callback(self._writer.close)
            self._old = Root(before.path) if before is not None else None
            if self._old is not None:
                held.callback(self._old.close)
            self._held = held.pop_all()

    def __enter__(self) -> _Builder:
        return self

    def __exit__(self, *exc: object) -> None:
        self._held.close()

    def build(self, now: datetime.datetime) -> Summary:
        """All but the summary, on the disk when this returns. Raises TemporaryError, StorageError too."""
        with contextlib.closing(walk(self._store.root, self._store.target)) as names:
            for walked in names:
                entry = _describe(walked, self._links)
                if entry is not None:
                    self._place(walked, entry)
        self._writer.close()
        summary = self._writer.summary(self._store.target, now)
        self._settle_directories(summary.digest)
        sync_file_system(self._made.fd)
        return summary

    def _place(self, walked: Walked, entry: Entry) -> None:
        target = (TREE, *walked.parts)
        directory, name = self._directories.get(target[:-1]), target[-1]
        was, shared = self._before.take(walked.parts), False
        if entry.type == "dir":
            os.mkdir(name, OWNER_ALL, dir_fd=directory)
        elif entry.type == "symlink":
            os.symlink(os.readlink(walked.name, dir_fd=walked.directory), name, dir_fd=directory)
            with contextlib.suppress(PermissionError):
                os.chown(name, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=directory, follow_symlinks=False)
        elif entry.type == "hardlink":
            first = (TREE, *self._links[(walked.status.st_dev, walked.status.st_ino)])
            with self._made.directory(first[:-1]) as other:
                os.link(first[-1], name, src_dir_fd=other, dst_dir_fd=directory)
        else:
            entry, shared = self._place_file(walked, entry, was, directory)
        self._writer.add(entry, new=not shared)

    def _place_file(self, walked: Walked, entry: Entry, was: Entry | None, directory: int) -> tuple[Entry, bool]:
        """(as it is placed, whether its content is shared with the version before)."""
        name = (TREE, *walked.parts)[-1]
        known = was if was is not None and was.type == "file" and was.seen == entry.seen else None
        if known is not None and not self._clones and self._link_old(walked, directory, name):
            return known, True
        try:
            source = open_regular(walked.name, walked.directory)
        except FileNotFoundError as error:
            raise changed(walked.parts) from error
        try:
            entry = msgspec.structs.replace(entry, xattrs=copying.xattrs(source))
            entry = self._copy(source, walked, entry, known, directory)
            now = os.fstat(source)
        finally:
            os.close(source)
        if (now.st_ino, now.st_ctime_ns) != entry.seen:
            raise changed(walked.parts)
        if was is not None and not self._clones and msgspec.structs.replace(entry, seen=was.seen) == was:
            # written anew with what it had
            os.unlink(name, dir_fd=directory)
            if self._link_old(walked, directory, name):
                return entry, True
            raise changed(walked.parts)
        return entry, known is not None and self._clones

    def _copy(self, source: int, walked: Walked, entry: Entry, known: Entry | None, directory: int) -> Entry:
        target = os.open((TREE, *walked.parts)[-1], _NEW_FILE, 0o600, dir_fd=directory)
        try:
            if not (self._clones and copying.clone(source, target)):
                copying.copy(source, target)
            elif known is None and entry.size >= copying.SHARED:
                self._share_old(walked, target)
            entry = msgspec.structs.replace(entry, hash=known.hash if known is not None else copying.digest(target))
            copying.take_over(target, entry)
        finally:
            os.close(target)
        return entry

    def _share_old(self, walked: Walked, target: int) -> None:
        """A file that was received anew has blocks of its own also for what did not change in it."""
        if self._old is None:
            return
        try:
            old = self._old.open_file((TREE, *walked.parts))
        except (FileNotFoundError, NotADirectoryError, RefusedError):
            return
        try:
            copying.share(old, target)
        finally:
            os.close(old)

    def _link_old(self, walked: Walked, directory: int, name: bytes) -> bool:
        """Shares the file of the version before; false where it has as many names as it can have, or is gone."""
        target = (TREE, *walked.parts)
        if self._old is None:
            return False
        try:
            with self._old.directory(target[:-1]) as old:
                os.link(target[-1], name, src_dir_fd=old, dst_dir_fd=directory, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EMLINK, errno.ENOENT, errno.ENOTDIR):
                raise
            return False
        return True

    def _settle_directories(self, digest: str) -> None:
        """Owners, modes and times, once nothing is put into them any more; those that close themselves come last."""
        closed = []
        with contextlib.closing(manifest.read(self._path / "manifest", digest)) as entries:
            for entry in entries:
                if entry.type == "dir" and entry.mode & OWNER_ALL != OWNER_ALL:
                    closed.append(entry)
                elif entry.type == "dir":
                    self._settle(entry)
        for entry in reversed(closed):
            self._settle(entry)

    def _settle(self, entry: Entry) -> None:
        with self._made.directory((TREE, *entry.parts)) as fd:
            copying.take_over(fd, entry)
