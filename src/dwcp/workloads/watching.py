"""Tells of changes below a path, as inotify(7) sees them. A thread each: the watcher blocks."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import structlog
from watchfiles import Change, watch

STEP_MS = 50
"""Changes within so many milliseconds are told once; what rest is, `policy.schedule.Settling` decides."""
PATIENCE_MS = 1000
"""How soon a watcher that is to end looks whether it is."""
RETRY = 10.0
"""Seconds until a source that could not be watched is tried again: it may be mounted, or made, meanwhile."""

log = structlog.get_logger()


class Watcher:
    """`changed` is called in the watcher's thread, also once when watching begins: what came before was not seen."""

    def __init__(self, source: Path, changed: Callable[[], None]) -> None:
        self.source = source
        self.problem = ""
        """Why it does not see changes now; empty when it does."""
        self._changed = changed
        self._watches = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dwcp-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """It ends within PATIENCE_MS; nobody has to wait for that."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._watches = False
            try:
                self._watch()
            except Exception as error:  # the library raises what the system said in several classes of its own
                # an event whose name is no UTF-8 ends a watch too; what is missed then, its new beginning makes up for
                problem = "" if self._watches else f"{self.source} cannot be watched: {error}"
                if problem and problem != self.problem:
                    log.warning("changes of a source are not seen", reason=problem)
                self.problem = problem
            self._stop.wait(STEP_MS / 1000 if self._watches else RETRY)

    def _watch(self) -> None:
        """Until it is to stop, or the source is another one. Raises what the library raises, and OSError."""
        is_directory = self.source.is_dir()
        # a file that is replaced is another one: only its directory sees that
        top = self.source if is_directory else self.source.parent
        names = None if is_directory else str(self.source)

        def wanted(change: Change, path: str) -> bool:
            return names is None or path == names

        watched, first = top.stat(), True
        for changes in watch(
            top,
            watch_filter=wanted,
            debounce=STEP_MS,
            step=STEP_MS,
            stop_event=self._stop,
            rust_timeout=PATIENCE_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
            recursive=is_directory,
        ):
            self.problem, self._watches = "", True
            if changes or first:
                self._changed()
            first = False
            if not os.path.samestat(top.stat(), watched):
                # another directory has the name
                return
