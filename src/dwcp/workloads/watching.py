"""Tells of changes below a path, as inotify(7) sees them. A thread each: the watcher blocks.

It needs to know that something has changed, not what; so events that were lost (an overflow of the kernel's queue, a
directory that was filled before it could be watched) are made up for by beginning anew, which counts as a change.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import structlog
from inotify_simple import INotify, flags

GATHER_MS = 50
"""Events within so many milliseconds are told once; what rest is, `policy.schedule.Settling` decides."""
PATIENCE_MS = 1000
"""How soon a watcher that is to end looks whether it is."""
RETRY = 10.0
"""Seconds until a source that could not be watched is tried again: it may be mounted, or made, meanwhile."""
_CHANGES = (
    flags.MODIFY
    | flags.ATTRIB
    | flags.CLOSE_WRITE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.CREATE
    | flags.DELETE
    | flags.DELETE_SELF
    | flags.MOVE_SELF
)
"""Not that something is read, for sending it does that."""
_DIRECTORY = _CHANGES | flags.ONLYDIR | flags.DONT_FOLLOW | flags.EXCL_UNLINK
_SELF = flags.DELETE_SELF | flags.MOVE_SELF
_APPEARS = flags.CREATE | flags.MOVED_TO
_LOST = flags.Q_OVERFLOW | flags.UNMOUNT

log = structlog.get_logger()


class Watcher:
    """`changed` is called in the watcher's thread, also when watching begins: what came before was not seen."""

    def __init__(self, source: Path, changed: Callable[[], None]) -> None:
        self.source = source
        self.problem = ""
        """Why it does not see changes now; empty when it does."""
        self._changed = changed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dwcp-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """It ends within PATIENCE_MS; nobody has to wait for that."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._watch()
            except OSError as error:
                advice = "; raise fs.inotify.max_user_watches" if error.errno == errno.ENOSPC else ""
                problem = f"changes of {self.source} are not seen: {error.strerror}{advice}"
                if problem != self.problem:
                    log.warning("a source cannot be watched", reason=problem)
                self.problem = problem
                self._stop.wait(RETRY)

    def _watch(self) -> None:
        """Until it is to stop, or has to begin anew. Raises OSError."""
        # a file that is replaced is another one: only its directory sees that
        name = "" if self.source.is_dir() else self.source.name
        top = self.source.parent if name else self.source
        with INotify() as inotify:
            paths: dict[int, bytes] = {}
            first = inotify.add_watch(top, _DIRECTORY)
            paths[first] = os.fsencode(top)
            if not name:
                _add(inotify, paths, paths[first])
            self.problem = ""
            self._changed()
            while not self._stop.is_set():
                # gathered: a burst is one change, and the kernel makes one of equal events
                told = False
                for event in inotify.read(PATIENCE_MS, GATHER_MS):
                    if event.mask & _LOST or (event.wd == first and event.mask & _SELF):
                        return
                    if event.mask & flags.IGNORED:
                        paths.pop(event.wd, None)
                        continue
                    told = told or not name or event.name == name
                    if not name and event.mask & flags.ISDIR and event.mask & _APPEARS and event.wd in paths:
                        _add(inotify, paths, paths[event.wd] + b"/" + os.fsencode(event.name))
                if told and name and self.source.is_dir():
                    # it has become a directory: what is in it counts from now on
                    return
                if told:
                    self._changed()


def _add(inotify: INotify, paths: dict[int, bytes], top: bytes) -> None:
    """Watches a directory and all below it. What is gone, or closed to us, is left out: its parent has told that it
    went, and what cannot be read is not sent either, which the transfer says. Raises OSError where no more can be had.
    """
    waiting = [top]
    while waiting:
        directory = waiting.pop()
        try:
            # before it is listed, so that nothing can appear in between
            paths[inotify.add_watch(directory, _DIRECTORY)] = directory
            with os.scandir(directory) as entries:
                waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
