"""Files that are written whole or not at all, also through a power cut."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


def write(path: Path, content: bytes, mode: int = 0o600, *, sync: bool = True) -> None:
    """Replaces what has the name. Without `sync` a power cut may lose it. Raises OSError, and leaves it as it was."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        create(temporary, content, mode, sync=sync)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_directory(path.parent)


def create(path: Path, content: bytes, mode: int = 0o600, *, sync: bool = True) -> None:
    """Writes and syncs a file; its name is durable once the directory is synced. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        if sync:
            os.fsync(descriptor)


def sync_directory(path: Path) -> None:
    """Names in it are durable when this returns. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """flock(2) on a directory, which replacing files in it does not lose: one process at a time changes what is there.
    Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
