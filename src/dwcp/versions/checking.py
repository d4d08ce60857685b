"""Reads again what is stored, compares it with what was written, and mends what it can on the spot.

A stored file that is not what its manifest says is replaced from the live one, where that still is; a live file that
was not touched since the newest version and yet has other content is replaced from there. Where neither helps, the
live file is removed, so that the next transfer brings it anew from the source, and the next check mends the version.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dwcp.errors import RefusedError, StorageError
from dwcp.files.root import Parts, Root
from dwcp.files.staging import Staging
from dwcp.versions import copying, manifest
from dwcp.versions.making import OWNER_ALL, TREE
from dwcp.versions.manifest import Checked, Entry
from dwcp.versions.store import Version, VersionStore, version_root
from dwcp.wire.paths import display

MAX_LISTED = 64
"""Damaged files that are named; all are counted."""
_MENDED = b"mended"
"""In the version's own directory, on its way to its name."""
_LOOK = 1.0
_LAG = 0.25
"""Seconds that reading may be ahead of its rate before it waits: few, short waits."""


@dataclass(slots=True)
class Found:
    """What a check did. `files` and `bytes` were read; `healed` were mended; `damaged` could not be."""

    files: int = 0
    bytes: int = 0
    healed: int = 0
    damaged: int = 0
    live_removed: int = 0
    """Live files that have to come anew from the source."""
    lines: list[str] = field(default_factory=list)
    """One for each of the first that are damaged."""


class Pace:
    """Keeps reading to a rate. Whoever has asked may have gone meanwhile, and is looked after once a second."""

    def __init__(self, rate: float | None, still_wanted: Callable[[], None]) -> None:
        """`rate` in bytes per second, None for no limit; `still_wanted` raises what the reading is to end with."""
        self._rate = rate
        self._still_wanted = still_wanted
        self._began = self._looked = time.monotonic()
        self.total = 0

    def __call__(self, size: int) -> None:
        """Raises what `still_wanted` raises."""
        self.total += size
        while True:
            now = time.monotonic()
            if now - self._looked >= _LOOK:
                self._looked = now
                self._still_wanted()
            ahead = self.total / self._rate - (now - self._began) if self._rate is not None else 0.0
            if ahead <= _LAG:
                return
            time.sleep(min(ahead, _LOOK))


def check_versions(store: VersionStore, owner: str, pace: Pace, heir_of: str = "") -> Found:
    """All versions, the newest first, and the live files that the newest knows. Raises as `VersionStore.locked`, and
    what the pace does."""
    found = Found()
    with store.locked(owner, heir_of):
        good: set[tuple[int, int, str]] = set()
        versions = list(reversed(store.find()))
        for version in versions:
            _Check(store, version, pace, found, good, live=version is versions[0]).run()
    found.bytes = pace.total
    return found


class _Check:
    """`good`: (device, inode, hash) of files that were read already under another name."""

    def __init__(
        self,
        store: VersionStore,
        version: Version,
        pace: Pace,
        found: Found,
        good: set[tuple[int, int, str]],
        *,
        live: bool,
    ) -> None:
        self._store = store
        self._version = version
        self._pace = pace
        self._found = found
        self._good = good
        self._live = live
        self._damaged: list[str] = []
        self._mended: set[str] = set()
        self._count = 0

    def run(self) -> None:
        root = version_root(self._version)
        try:
            if not manifest.is_whole(self._version.manifest, self._version.summary.digest):
                raise StorageError("its manifest is damaged")
            with contextlib.closing(manifest.read(self._version.manifest, self._version.summary.digest)) as entries:
                for entry in entries:
                    self._entry(root, entry)
        except (StorageError, OSError) as error:
            self._count += 1
            self._found.damaged += 1
            self._say(f"version {self._version.id}: {error}")
        finally:
            root.close()
        now = datetime.datetime.now(datetime.UTC)
        self._store.note_check(self._version, Checked(now, self._count, self._damaged))

    def _entry(self, root: Root, entry: Entry) -> None:
        if entry.type == "file":
            self._file(root, entry)
        elif entry.type == "hardlink" and entry.link in self._mended:
            self._link_again(root, entry)
        elif not self._is_there(root, entry):
            self._note(entry, "is not there any more")

    def _file(self, root: Root, entry: Entry) -> None:
        stored = (TREE, *entry.parts)
        live = self._store.target + entry.parts
        is_good = self._is(root, stored, entry)
        self._found.files += 1
        if self._live:
            self._look_at_live(root, stored, live, entry, is_good=is_good)
        if is_good:
            return
        if self._is(self._store.root, live, entry):
            self._mend_stored(root, live, stored, entry)
            self._found.healed += 1
        else:
            self._note(entry, "is damaged, and the live file is another by now")

    def _look_at_live(self, root: Root, stored: Parts, live: Parts, entry: Entry, *, is_good: bool) -> None:
        """Only a file that nobody has touched can have been damaged: any other is what somebody made of it."""
        try:
            status = self._store.root.stat(live)
        except OSError:
            return
        if (status.st_ino, status.st_ctime_ns) != entry.seen or self._is(self._store.root, live, entry):
            return
        if is_good:
            self._mend_live(root, stored, live, entry)
            self._found.healed += 1
        else:
            with self._store.root.directory(live[:-1]) as directory:
                os.unlink(live[-1], dir_fd=directory)
            self._found.live_removed += 1

    def _is(self, root: Root, parts: Parts, entry: Entry) -> bool:
        """Whether the file there has the entry's content."""
        try:
            fd = root.open_file(parts)
        except (OSError, RefusedError):
            return False
        try:
            status = os.fstat(fd)
            if status.st_size != entry.size:
                return False
            key = (status.st_dev, status.st_ino, entry.hash)
            if key not in self._good:
                if copying.digest(fd, self._pace) != entry.hash:
                    return False
                if status.st_nlink > 1:
                    self._good.add(key)
            return True
        except OSError:
            # what cannot be read (EIO) is not there
            return False
        finally:
            os.close(fd)

    def _is_there(self, root: Root, entry: Entry) -> bool:
        kinds = {"dir": stat.S_IFDIR, "symlink": stat.S_IFLNK, "hardlink": stat.S_IFREG}
        try:
            return stat.S_IFMT(root.stat((TREE, *entry.parts)).st_mode) == kinds.get(entry.type)
        except OSError:
            return False

    def _mend_stored(self, root: Root, live: Parts, stored: Parts, entry: Entry) -> None:
        """With a file of its own: the damaged one may be shared with other versions, which are mended in their turn."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(_MENDED, dir_fd=root.fd)
        fd = os.open(_MENDED, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=root.fd)
        try:
            self._fill(self._store.root, live, fd, entry)
        finally:
            os.close(fd)
        with root.directory(stored[:-1]) as directory, _changeable(directory):
            os.rename(_MENDED, stored[-1], src_dir_fd=root.fd, dst_dir_fd=directory)
        self._mended.add(entry.path)

    def _link_again(self, root: Root, entry: Entry) -> None:
        """A further name of a file that was mended under its first one."""
        first = (TREE, *manifest.unquoted(entry.link))
        stored = (TREE, *entry.parts)
        with root.directory(first[:-1]) as source, root.directory(stored[:-1]) as directory, _changeable(directory):
            os.unlink(stored[-1], dir_fd=directory)
            os.link(first[-1], stored[-1], src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)

    def _mend_live(self, root: Root, stored: Parts, live: Parts, entry: Entry) -> None:
        staging = Staging(self._store.root)
        try:
            name, fd = staging.create()
            try:
                self._fill(root, stored, fd, entry)
            finally:
                os.close(fd)
            with self._store.root.directory(live[:-1]) as directory, _changeable(directory):
                staging.publish(name, live[-1], directory)
        finally:
            staging.discard()
            staging.close()

    def _fill(self, root: Root, parts: Parts, target: int, entry: Entry) -> None:
        source = root.open_file(parts)
        try:
            if not copying.clone(source, target):
                copying.copy(source, target)
        finally:
            os.close(source)
        copying.take_over(target, entry)
        os.fsync(target)

    def _note(self, entry: Entry, what: str) -> None:
        self._count += 1
        self._found.damaged += 1
        if len(self._damaged) < MAX_LISTED:
            self._damaged.append(entry.path)
        self._say(f"version {self._version.id}: {display(b'/'.join(entry.parts))} {what}")

    def _say(self, line: str) -> None:
        if len(self._found.lines) < MAX_LISTED:
            self._found.lines.append(line)


@contextlib.contextmanager
def _changeable(directory: int) -> Iterator[None]:
    """Mode and time of a directory are what they were when a name in it was replaced, and that is on the disk."""
    status = os.fstat(directory)
    os.fchmod(directory, stat.S_IMODE(status.st_mode) | OWNER_ALL)
    yield
    os.fchmod(directory, stat.S_IMODE(status.st_mode))
    os.utime(directory, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.fsync(directory)
