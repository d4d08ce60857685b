"""Whether a version that has arrived somewhere is what it was."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from dwcp.errors import DwcpError, StorageError
from dwcp.files.root import Root
from dwcp.versions import copying, manifest
from dwcp.versions.making import TREE
from dwcp.versions.manifest import Entry
from dwcp.versions.walk import walk
from dwcp.wire.paths import display

_KINDS = {"dir": stat.S_IFDIR, "file": stat.S_IFREG, "hardlink": stat.S_IFREG, "symlink": stat.S_IFLNK}


def differences(directory: Path) -> Iterator[tuple[Path, str]]:
    """Each name in `tree` that is not what `manifest` says, with a line about it. Raises StorageError where that is
    damaged."""
    summary = manifest.read_summary(directory / "summary")
    if not manifest.is_whole(directory / "manifest", summary.digest):
        raise StorageError(f"the manifest in {directory} is damaged")
    root = Root(directory)
    try:
        for entry in manifest.read(directory / "manifest", summary.digest):
            try:
                problem = _problem(root, entry)
            except (OSError, DwcpError) as error:
                problem = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            if problem:
                path = directory / os.fsdecode(b"/".join((TREE, *entry.parts)))
                yield path, f"{display(b'/'.join(entry.parts))}: {problem}"
        found = sum(1 for _ in walk(root, (TREE,)))
        if found != summary.entries:
            yield directory / os.fsdecode(TREE), f"{found} names, where there were {summary.entries}"
    except OSError as error:
        raise StorageError(f"cannot read {directory}: {error.strerror}") from error
    finally:
        root.close()


def _problem(root: Root, entry: Entry) -> str:
    """Empty where it is what it was. Raises OSError, RefusedError."""
    parts = (TREE, *entry.parts)
    status = root.stat(parts)
    if stat.S_IFMT(status.st_mode) != _KINDS.get(entry.type):
        return f"is no {entry.type}"
    if entry.type == "symlink":
        with root.directory(parts[:-1]) as parent:
            return "" if manifest.quoted((os.readlink(parts[-1], dir_fd=parent),)) == entry.link else "leads elsewhere"
    if entry.type == "hardlink":
        first = root.stat((TREE, *manifest.unquoted(entry.link)))
        return "" if first.st_ino == status.st_ino else f"is no link to {entry.link}"
    if status.st_mtime_ns != entry.mtime_ns:
        return "has another time"
    if entry.type == "dir":
        return ""
    fd = root.open_file(parts)
    try:
        return "" if copying.digest(fd) == entry.hash else "has other content"
    finally:
        os.close(fd)
