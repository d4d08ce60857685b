"""Reads the rule files of a directory (`dwcp.filters`)."""

from __future__ import annotations

import os

from dwcp.errors import RefusedError, UsageError
from dwcp.files.root import failure, open_regular
from dwcp.filters.rules import MAX_MERGE_FILE, Level, merge_names
from dwcp.units import format_size
from dwcp.wire.paths import display


def enter(level: Level, path: bytes, directory: int) -> Level:
    """The rules for what is in a held directory, `path` relative to the tree. A name that is no regular file has none.

    Raises a DwcpError where a file is there and cannot be used: what it would leave out must not be sent or deleted.
    """
    files: dict[bytes, bytes] = {}
    for name in merge_names(level.items):
        where = path + b"/" + name if path else name
        try:
            fd = open_regular(name, directory)
        except (FileNotFoundError, RefusedError):
            continue
        except OSError as error:
            raise failure(error, "cannot read the rules in", where) from error
        try:
            content = os.pread(fd, MAX_MERGE_FILE + 1, 0)
        except OSError as error:
            raise failure(error, "cannot read the rules in", where) from error
        finally:
            os.close(fd)
        if len(content) > MAX_MERGE_FILE:
            raise UsageError(
                f"{display(where)} is larger than {format_size(MAX_MERGE_FILE)}, which no file of rules is"
            )
        files[name] = content
    return level.enter(path, files)
