"""A tree in one order, always the same, so that two listings are compared side by side and not in memory.

Each directory's names come together, sorted as bytes; then those of its first directory, and so on.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator
from dataclasses import dataclass

from dwcp.errors import TemporaryError
from dwcp.files.root import Parts, Root
from dwcp.wire.paths import display


@dataclass(frozen=True, slots=True)
class Walked:
    """A name below where the walk began, `parts` being its path from there; `directory` is borrowed until the next."""

    parts: Parts
    name: bytes
    directory: int
    status: os.stat_result


def order(parts: Parts) -> tuple[Parts, Parts]:
    """By which the names of a walk ascend."""
    return parts[:-1], parts[-1:]


def walk(root: Root, start: Parts) -> Generator[Walked, None, None]:
    """Everything at and below `start`, which is not empty; nothing is followed. It holds a descriptor: whoever may
    leave before the end closes it.

    Raises OSError where something cannot be read, TemporaryError where it goes away meanwhile.
    """
    with root.directory(start[:-1]) as parent:
        status = os.stat(start[-1], dir_fd=parent, follow_symlinks=False)
        yield Walked((), start[-1], parent, status)
    waiting: list[Parts] = [()] if stat.S_ISDIR(status.st_mode) else []
    while waiting:
        above = waiting.pop()
        below = []
        with root.directory(start + above) as directory:
            with os.scandir(directory) as found:
                names = sorted(os.fsencode(entry.name) for entry in found)
            for name in names:
                try:
                    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                except FileNotFoundError as error:
                    raise changed((*start, *above, name)) from error
                if stat.S_ISDIR(status.st_mode):
                    below.append((*above, name))
                yield Walked((*above, name), name, directory, status)
        waiting += reversed(below)


def changed(parts: Parts) -> TemporaryError:
    return TemporaryError(f"{display(b'/'.join(parts))} changes while it is read; try again when it rests")
