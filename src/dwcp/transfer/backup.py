"""Keeps what is replaced or deleted under another name, as rsync's --backup."""

from __future__ import annotations

import errno
import os
import stat
import threading

from dwcp.errors import RefusedError
from dwcp.files.root import Directories, Parts, Root
from dwcp.files.staging import Staging
from dwcp.wire.paths import MAX_NAME, check_relative, display

_NO_LINKS = {errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES}
"""Of link(2): file systems without hard links, and kernels that forbid them (fs.protected_hardlinks)."""


def check_backup(directory: bytes, suffix: bytes) -> Parts:
    """The directory's components. Raises RefusedError for one that leads elsewhere, or where neither makes another
    name."""
    parts = check_relative(directory)
    if b"/" in suffix or b"\0" in suffix or not (parts or suffix):
        raise RefusedError(f"backups need a directory, or a suffix without a slash; {display(suffix)} is none")
    return parts


class Backup:
    """Of one transfer; methods may be called from any thread."""

    def __init__(self, root: Root, target: Parts, staging: Staging, directory: Parts, suffix: bytes) -> None:
        """`directory`: below the target; empty for beside the new one."""
        self.directory: Parts | None = (*target, *directory) if directory else None
        self._suffix = suffix
        self._target = target
        self._staging = staging
        self._directories = Directories(root)
        self._lock = threading.Lock()

    def close(self) -> None:
        self._directories.forget()

    def protects(self, name: bytes, parts: Parts) -> bool:
        """Whether a name at the receiver is a backup, which no deletion takes."""
        return parts == self.directory if self.directory is not None else name.endswith(self._suffix)

    def keep(self, name: bytes, parent: int, target: Parts, *, moves: bool = False) -> None:
        """Gives what has a name in a held directory, directories excepted, its backup's name too; with `moves` only
        that. `target`: its place below the root. Raises OSError, RefusedError."""
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(status.st_mode):
            return
        saved = name + self._suffix
        if len(saved) > MAX_NAME:
            raise RefusedError(f"{display(b'/'.join(target))} has no backup: its name would be longer than {MAX_NAME}")
        with self._lock:
            if self.directory is None:
                self._save(name, parent, saved, parent, moves)
            else:
                below = target[len(self._target) : -1]
                self._save(name, parent, saved, self._directories.get((*self.directory, *below)), moves)

    def _save(self, name: bytes, parent: int, saved: bytes, directory: int, moves: bool) -> None:
        if not moves:
            temporary = self._staging.new_name()
            try:
                os.link(name, temporary, src_dir_fd=parent, dst_dir_fd=self._staging.fd, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                # the name is missing for a moment then
            else:
                self._staging.publish(temporary, saved, directory)
                return
        os.rename(name, saved, src_dir_fd=parent, dst_dir_fd=directory)
