"""What the library says, as fsspec and its users expect to hear it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fsspec.callbacks import NoOpCallback

from dwcp.errors import NotFoundError, RefusedError
from dwcp.transfer.board import TransferStatus
from dwcp.transfer.remote_files import RemoteEntry
from dwcp.wire.tree import TreeOptions

Info = dict[str, Any]
"""`name`, `size` in bytes, `type` (file, directory, link, other); what is in an export has `mtime_ns` and `mode` as
well, a link its `destination`."""

BY_CONTENT = TreeOptions(compare=True)
"""Whoever writes a file means its content: that another one has the same size and time says nothing."""

_TYPES = {"dir": "directory", "export": "directory", "file": "file", "symlink": "link"}
_KINDS = {"directory": "dir", "file": "file", "link": "symlink", "other": "special"}


def info_of(path: str, entry: RemoteEntry) -> Info:
    """Of the entry at a path that begins with the peer."""
    info: Info = {
        "name": path,
        "size": entry.size if entry.kind == "file" else 0,
        "type": _TYPES.get(entry.kind, "other"),
        "mtime_ns": entry.mtime_ns,
        "mode": entry.mode,
    }
    return {**info, "destination": entry.target} if entry.kind == "symlink" else info


def entry_of(info: Info) -> RemoteEntry:
    """The inverse of `info_of`."""
    return RemoteEntry(
        info["name"].rpartition("/")[2],
        _KINDS[info["type"]],
        info["size"],
        info["mtime_ns"],
        info["mode"],
        info.get("destination", ""),
    )


@contextmanager
def os_errors(path: str) -> Iterator[None]:
    """The errors that programs expect of any file system; whatever those have no name for stays a DwcpError."""
    try:
        yield
    except NotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, str(error), path) from error
    except RefusedError as error:
        raise PermissionError(errno.EACCES, str(error), path) from error


def reporting(callback: Any) -> Callable[[TransferStatus], None] | None:
    """Tells fsspec's callback how far a transfer is."""
    if isinstance(callback, NoOpCallback):
        return None

    def report(status: TransferStatus) -> None:
        if status.bytes_total:
            callback.set_size(status.bytes_total)
        callback.absolute_update(status.bytes_done)

    return report
