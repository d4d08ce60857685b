"""The names that a list gives, not all that a tree has (rsync's --files-from): each with the directories above it, a
directory without its content."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator

from dwcp.errors import NotFoundError, RefusedError, UsageError
from dwcp.files import merge
from dwcp.files.root import Parts, Root, failure
from dwcp.files.scan import Found, Problem, Scan
from dwcp.filters.rules import Level
from dwcp.wire.paths import check_relative, display


def parse(content: bytes, *, zeros: bool) -> list[bytes]:
    """Names in a file, one a line, or ended by zero bytes; lines that begin with # or ; are comments."""
    if zeros:
        return [name for name in content.split(b"\0") if name]
    return [line for line in content.splitlines() if line and line[:1] not in (b"#", b";")]


def in_order(names: Iterable[bytes]) -> list[Parts]:
    """Each once, and after the directory that it is in. Raises UsageError for a name that leads elsewhere."""
    found: set[Parts] = set()
    for name in names:
        try:
            parts = check_relative(b"/".join(part for part in name.split(b"/") if part not in (b"", b".")))
        except RefusedError as error:
            raise UsageError(f"the list of names: {error}") from error
        found.update(parts[:count] for count in range(1, len(parts) + 1))
    return sorted(found)


class Listed:
    """As `Scan`, for the names of a list."""

    def __init__(self, root: Root, names: list[Parts], scan: Scan, level: Level | None, problem: Problem) -> None:
        """`names`: of `in_order`; `scan`: of the same root, tells what a name is."""
        self._root = root
        self._names = names
        self._scan = scan
        self._level = level
        self._problem = problem

    def __iter__(self) -> Iterator[Found]:
        """Raises as `Scan`."""
        first = self._scan.first()
        if not stat.S_ISDIR(first.stat.st_mode):
            raise UsageError("a list of names needs a directory that they are in")
        yield first
        levels: dict[Parts, Level | None] = {}
        left_out: Parts = ()
        for parts in self._names:
            if left_out and parts[: len(left_out)] == left_out:
                continue
            path = b"/".join(parts)
            try:
                with self._root.directory(parts[:-1]) as fd:
                    found = self._scan.look(path, parts[-1], fd)
                    level = self._enter(levels, parts[:-1], fd)
            except FileNotFoundError:
                self._problem(NotFoundError(f"{display(path)} is named in the list and does not exist"))
                continue
            except OSError as error:
                self._problem(failure(error, "cannot read", path))
                continue
            if level is not None and level.excludes(path, directory=stat.S_ISDIR(found.stat.st_mode)):
                left_out = parts
                continue
            yield found

    def _enter(self, levels: dict[Parts, Level | None], directory: Parts, fd: int) -> Level | None:
        """The rules for what is in a directory. `levels` has those of the directories above it, and no others."""
        if self._level is None:
            return None
        if directory not in levels:
            above = levels.get(directory[:-1], self._level) if directory else self._level
            for known in [known for known in levels if directory[: len(known)] != known]:
                del levels[known]
            levels[directory] = merge.enter(above, b"/".join(directory), fd) if above is not None else None
        return levels[directory]
