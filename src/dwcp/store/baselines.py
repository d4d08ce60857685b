"""Copies that a sender keeps of what it sent, to compare the next version with: `baselines` in the state directory.

    baselines/PEER/KEY        content
    baselines/PEER/KEY.json   what it is, when it was made, how often it was changed since

A copy is a hint. A sender uses it after the receiver's digests have shown that both hold the same, and the receiver
checks what it makes of it, so that a copy that a crash left half changed, or somebody removed, costs time and nothing
else. That is why nothing here is synced. A copy shares its blocks with the source where the file system can
(ioctl_ficlonerange(2): Btrfs, XFS).
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path
from typing import NamedTuple

import msgspec
import structlog
import xxhash

from dwcp.store import durable

DIRECTORY = "baselines"
FREE = 10
"""Percent of the file system that copies leave free."""
_FICLONE = 0x40049409
"""linux/fs.h."""

log = structlog.get_logger()


class About(msgspec.Struct):
    """`made`: seconds of the epoch."""

    path: str
    made: float
    updates: int = 0


class KeptCopies:
    """What is kept of one tree for one peer, within a limit for all peers together.

    `limit` in bytes of disk. A copy that is older than `interval` seconds or was updated `chain` times is compared as a
    whole with its source when it is next updated.
    """

    def __init__(self, state_dir: Path, peer: str, tree: bytes, *, limit: int, interval: float, chain: int) -> None:
        self._all = state_dir / DIRECTORY
        self._directory = self._all / peer
        self._tree = tree
        self._limit = limit
        self._interval = interval
        self._chain = chain

    def find(self, path: bytes) -> KeptCopy | None:
        """The copy of a file, locked until it is closed; None where there is none, or somebody else has it."""
        name = self._name(path)
        copy = self._open(name, os.O_RDWR)
        if copy is None:
            return None
        about = _about(copy.path)
        if about is None:
            copy.discard()
            return None
        copy.about = about
        copy.is_old = about.updates >= self._chain or not 0 <= time.time() - about.made < self._interval
        return copy

    def make(self, path: bytes, size: int) -> KeptCopy | None:
        """An empty copy for `size` bytes, once older ones have made room; None where there is no room for it."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            log.info("what is sent is not kept", reason=str(error))
            return None
        if not make_room(self._all, self._limit, size):
            return None
        copy = self._open(self._name(path), os.O_RDWR | os.O_CREAT)
        if copy is not None:
            copy.about = About(os.fsdecode(path).encode("utf-8", "replace").decode(), time.time())
            copy.clear()
        return copy

    def _name(self, path: bytes) -> str:
        return xxhash.xxh3_128_hexdigest(len(self._tree).to_bytes(4, "big") + self._tree + path)

    def _open(self, name: str, flags: int) -> KeptCopy | None:
        path = self._directory / name
        try:
            fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink == 0:
                # it was pruned between the two calls
                raise FileNotFoundError(path)
        except OSError:
            os.close(fd)
            return None
        return KeptCopy(path, fd)


class KeptCopy:
    """One copy, open and locked. Any thread may use it; `finish`, `leave` or `discard` closes it."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.size = os.fstat(fd).st_size
        self.about = About("", 0.0)
        self.is_old = False
        self._fd = fd
        self._broken = False
        # a descriptor that is closed may be another file's an instant later
        self._lock = threading.Lock()

    def read(self, offset: int, size: int) -> bytes:
        """Fewer bytes where it ends, none when it is closed. Raises OSError."""
        with self._lock:
            return os.pread(self._fd, size, offset) if self._fd >= 0 else b""

    def clone(self, source: int) -> bool:
        """Makes it the source's content as it is now, without copying. False where the file system cannot."""
        with self._lock:
            try:
                fcntl.ioctl(self._fd, _FICLONE, source)
            except OSError:
                return False
            return True

    def clear(self) -> None:
        with self._lock:
            os.ftruncate(self._fd, 0)

    def write(self, offset: int, content: memoryview) -> None:
        """What cannot be written breaks the copy and nothing else: `finish` removes it then."""
        with self._lock:
            if self._fd < 0 or self._broken:
                return
            try:
                while content:
                    written = os.pwrite(self._fd, content, offset)
                    content, offset = content[written:], offset + written
            except OSError as error:
                self._give_up(error)

    def finish(self, size: int, *, anew: bool) -> None:
        """It is now what was sent, `size` bytes, made `anew` or updated. Closes it."""
        with self._lock:
            if anew:
                about = About(self.about.path, time.time())
            else:
                about = About(self.about.path, self.about.made, self.about.updates + 1)
            try:
                os.ftruncate(self._fd, size)
                os.utime(self._fd)
                self._describe(about)
            except OSError as error:
                self._give_up(error)
            self._close()

    def leave(self, *, half_used: bool = False) -> None:
        """It stays as it was. `half_used`: the receiver may have gone on from it meanwhile. Closes it."""
        with self._lock:
            if half_used:
                try:
                    self._describe(About(self.about.path, 0.0))
                except OSError as error:
                    self._give_up(error)
            self._close()

    def discard(self) -> None:
        """Removes and closes it."""
        with self._lock:
            self._broken = True
            self._close()

    def _describe(self, about: About) -> None:
        durable.write(_about_path(self.path), msgspec.json.encode(about), sync=False)

    def _give_up(self, error: OSError) -> None:
        self._broken = True
        log.info("a copy of what was sent is given up", path=str(self.path), reason=str(error))

    def _close(self) -> None:
        if self._fd < 0:
            return
        if self._broken:
            self.path.unlink(missing_ok=True)
            _about_path(self.path).unlink(missing_ok=True)
        os.close(self._fd)
        self._fd = -1


def make_room(directory: Path, limit: int, wanted: int = 0) -> bool:
    """Removes the copies that were not used for longest until `wanted` bytes more are within `limit`, and FREE percent
    of the file system stay free. False, and nothing is removed, where that cannot be."""
    copies = sorted(_copies(directory), key=lambda copy: copy.used)
    space = sum(copy.size for copy in copies)
    try:
        status = os.statvfs(directory)
    except OSError:
        return False
    spare = status.f_bavail * status.f_frsize - status.f_blocks * status.f_frsize * FREE // 100
    most = min(limit, spare + space)
    if wanted > most:
        return False
    for copy in copies:
        if space + wanted <= most:
            break
        if _remove(copy.path):
            space -= copy.size
    return space + wanted <= most


class _Listed(NamedTuple):
    path: Path
    used: float
    """When, last: seconds of the epoch."""
    size: int
    """Bytes on disk."""


def _copies(directory: Path) -> list[_Listed]:
    found = []
    for path in directory.glob("*/*"):
        if path.suffix:
            continue
        try:
            status = path.stat()
        except OSError:
            continue
        found.append(_Listed(path, status.st_mtime, status.st_blocks * 512))
    return found


def _remove(path: Path) -> bool:
    """False for one that is in use."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        _about_path(path).unlink(missing_ok=True)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _about_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _about(path: Path) -> About | None:
    try:
        return msgspec.json.decode(_about_path(path).read_bytes(), type=About)
    except (OSError, msgspec.DecodeError):
        return None
