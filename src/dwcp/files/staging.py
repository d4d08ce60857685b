"""Where files wait until they are whole: the directory `.dwcp` at the root that they will be moved within.

    KEY.part      content of a large file, at its places
    KEY.journal   which leaves of it are there (`store.journal`); locked (flock(2)) by the transfer that writes it
    versions/     complete earlier states of paths (`dwcp.versions`)
    t-*           a small file, symlink or hardlink on its way to its name; worthless once its transfer is gone

Whoever uses the directory holds a shared lock on it; the last one removes it, if it is empty then. The key is made from
what the file is to become, so that the same transfer finds its part again, whoever was killed.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import os
import stat
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass

import xxhash

from dwcp.errors import TemporaryError
from dwcp.files.root import DIRECTORY_FLAGS, Root, make_directory
from dwcp.wire.paths import STAGING, display

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Part:
    """An unfinished file, open and locked. `fresh`: nothing was there before."""

    key: str
    fd: int
    journal_fd: int
    fresh: bool

    def close(self) -> None:
        os.close(self.fd)
        os.close(self.journal_fd)


class Staging:
    """The staging directory of one root. Methods may be called from any thread; all raise OSError."""

    def __init__(self, root: Root) -> None:
        self.fd = _hold(root)
        self._root = root
        self._prefix = f"t-{uuid.uuid4().hex[:12]}-"
        self._numbers = itertools.count()
        try:
            os.fchmod(self.fd, 0o700)
            self.ignores_case = self._ignores_case()
        except OSError:
            os.close(self.fd)
            raise

    def close(self) -> None:
        os.close(self.fd)

    def has_part(self, key: str) -> bool:
        """Whether an earlier transfer left something to resume."""
        try:
            os.stat(f"{key}.journal", dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def open_part(self, key: str, what: bytes) -> Part:
        """Made where missing. Raises TemporaryError while another transfer receives the same file."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        while True:
            journal_fd = os.open(f"{key}.journal", flags | os.O_APPEND, 0o600, dir_fd=self.fd)
            try:
                fcntl.flock(journal_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(journal_fd).st_nlink:
                    fd = os.open(f"{key}.part", flags, 0o600, dir_fd=self.fd)
                    break
            except BlockingIOError as error:
                os.close(journal_fd)
                raise TemporaryError(
                    f"{display(what)} is being received by another transfer; try again when that one has ended"
                ) from error
            except OSError:
                os.close(journal_fd)
                raise
            # whoever had it finished the file and unlinked it between our open and our lock
            os.close(journal_fd)
        return Part(key, fd, journal_fd, os.fstat(fd).st_size == 0)

    def new_name(self) -> bytes:
        """A name that nothing has, for a small file."""
        return f"{self._prefix}{next(self._numbers)}".encode()

    def create(self) -> tuple[bytes, int]:
        """A new, empty file under such a name: (name, descriptor to write)."""
        name = self.new_name()
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return name, os.open(name, flags, 0o600, dir_fd=self.fd)

    def publish(self, name: bytes, final: bytes, directory: int) -> None:
        """Gives what waits under `name` its final name in the held `directory`, replacing what has it."""
        os.rename(name, final, src_dir_fd=self.fd, dst_dir_fd=directory)

    def publish_part(self, part: Part, final: bytes, directory: int) -> None:
        """Moves a finished part to its name and forgets its journal."""
        self.publish(f"{part.key}.part".encode(), final, directory)
        os.unlink(f"{part.key}.journal", dir_fd=self.fd)

    def drop_part(self, part: Part) -> None:
        """Gives up a part that is of no use."""
        for suffix in ("part", "journal"):
            os.unlink(f"{part.key}.{suffix}", dir_fd=self.fd)

    def _ignores_case(self) -> bool:
        """Whether the file system takes names that differ in case for one (vfat, ext4 with casefold)."""
        name, fd = self.create()
        os.close(fd)
        try:
            os.stat(name.upper(), dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        finally:
            os.unlink(name, dir_fd=self.fd)
        return True

    def sync(self) -> None:
        """Everything written to this file system is on its disk when this returns (syncfs(2))."""
        sync_file_system(self.fd)

    def sync_file(self, name: bytes) -> None:
        """The same for one small file."""
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def discard(self) -> None:
        """Removes what this transfer left behind, parts with a journal excepted, and the directory if it is empty."""
        for entry in _names(self.fd):
            if entry.startswith(self._prefix):
                os.unlink(entry, dir_fd=self.fd)
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rmdir(STAGING, dir_fd=self._root.fd)
        except OSError:
            # other transfers hold it, or keep their parts in it
            return


def _hold(root: Root) -> int:
    """The directory, made where missing. Its shared lock, which ends with the descriptor, keeps others that end from
    removing it while it is empty."""
    while True:
        make_directory(STAGING, root.fd)
        with suppress(FileNotFoundError):
            # raised where one that ended has removed it since; then it is made again
            fd = os.open(STAGING, DIRECTORY_FLAGS, dir_fd=root.fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH)
                if os.path.samestat(os.fstat(fd), os.stat(STAGING, dir_fd=root.fd, follow_symlinks=False)):
                    return fd
            except OSError:
                os.close(fd)
                raise
            os.close(fd)


class NoStaging(Staging):
    """Of a rehearsal: nothing is there, and nothing is made."""

    def __init__(self) -> None:
        self.fd = -1
        self.ignores_case = False

    def close(self) -> None:
        pass

    def has_part(self, key: str) -> bool:
        return False

    def sync(self) -> None:
        pass

    def discard(self) -> None:
        pass


def sync_file_system(fd: int) -> None:
    """Of an open file or directory: all of it is on its disk when this returns (syncfs(2)). Raises OSError."""
    if _libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def part_key(target: bytes, size: int, mtime_ns: int, checksum: str) -> str:
    """32 hexadecimal digits that name the part of this version of this file."""
    return xxhash.xxh3_128_hexdigest(b"\0".join([target, b"%d" % size, b"%d" % mtime_ns, checksum.encode()]))


def prune(root: Root, older_than: float) -> int:
    """Removes parts, and small files of transfers that are gone, untouched for `older_than` seconds. Returns how many.

    A part that a transfer holds is locked and stays. Raises OSError.
    """
    try:
        fd = os.open(STAGING, DIRECTORY_FLAGS, dir_fd=root.fd)
    except FileNotFoundError:
        return 0
    removed = 0
    try:
        limit = time.time() - older_than
        for name in _names(fd):
            if _is_stale(name, fd, limit):
                os.unlink(name, dir_fd=fd)
                removed += 1
    finally:
        os.close(fd)
    return removed


def _names(directory: int) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries]


def _is_stale(name: str, directory: int, limit: float) -> bool:
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        # a directory holds versions (`dwcp.versions`), which have rules of their own
        if status.st_mtime > limit or stat.S_ISDIR(status.st_mode):
            return False
        journal = name.removesuffix(".part") + ".journal" if name.endswith(".part") else name
        if not journal.endswith(".journal"):
            return True
        held = os.open(journal, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return name.endswith(".part")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(held)
    return True
