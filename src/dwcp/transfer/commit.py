"""The last step of every file: what is whole becomes durable, then gets its name, then is acknowledged.

One thread takes whatever is ready and whatever was written since its last round, syncs both at once, and only then
tells the sender. So a round grows with the load, a slow disk costs fewer and larger ones, and nothing that was
acknowledged can be lost.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import structlog

from dwcp.errors import DwcpError, fault
from dwcp.files.root import FATAL, Directories, Parts, Root, failure
from dwcp.files.staging import Staging
from dwcp.transfer.incoming import Incoming
from dwcp.wire.messages import runs_of

SYNC_EACH = 4
"""Up to this many files are synced one by one, more of them with their file system as a whole (syncfs)."""

Acknowledge = Callable[[Incoming, list[tuple[int, int]]], None]
Published = Callable[[list[Incoming]], None]
Failed = Callable[[Incoming, DwcpError], None]

log = structlog.get_logger()


class Committer:
    """`acknowledge` is told which leaves are durable, `published` which files are done, `failed` which never will."""

    def __init__(
        self,
        root: Root,
        staging: Staging,
        *,
        replacing: Callable[[bytes, int, Parts], None],
        make_room: Callable[[os.stat_result, Parts], None],
        acknowledge: Acknowledge,
        published: Published,
        failed: Failed,
        fatal: Callable[[DwcpError], None],
        changing: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """`changing` is held around each name that is given: it raises where this transfer may not do that any more.
        `replacing` learns which name of a held directory is overwritten next; `make_room` removes a directory in a
        file's place, or raises."""
        self._directories = Directories(root)
        self._staging = staging
        self._replacing = replacing
        self._make_room = make_room
        self._acknowledge = acknowledge
        self._published = published
        self._failed = failed
        self._fatal = fatal
        self._changing = changing
        self._condition = threading.Condition()
        self._written: dict[Incoming, list[int]] = {}
        self._ready: list[Incoming] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="dwcp-commit", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def written(self, file: Incoming, leaf: int) -> None:
        """A leaf is in the part and the journal."""
        with self._condition:
            self._written.setdefault(file, []).append(leaf)
            self._condition.notify()

    def ready(self, file: Incoming) -> None:
        """All of the file is in the staging directory and verified."""
        with self._condition:
            self._ready.append(file)
            self._condition.notify()

    def close(self) -> None:
        """Ends the thread, where it was started, after what it has is done; waits for it."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        if self._thread.ident is not None:
            self._thread.join()
        self._directories.forget()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: bool(self._ready or self._written or self._closing))
                if not self._ready and not self._written:
                    return
                ready, self._ready = self._ready, []
                written, self._written = self._written, {}
            try:
                self._round(ready, written)
            except DwcpError as error:
                self._fatal(error)
                return
            except OSError as error:
                self._fatal(failure(error, "cannot write to", b"the disk"))
                return
            except Exception as error:  # nobody would be left to publish anything, and the transfer wait for ever
                log.exception("publishing failed")
                self._fatal(fault(error))
                return

    def _round(self, ready: list[Incoming], written: dict[Incoming, list[int]]) -> None:
        self._sync(ready, written)
        done = []
        for file in ready:
            written.pop(file, None)
            try:
                with self._changing():
                    self._publish(file)
            except DwcpError as error:
                self._failed(file, error)
            except OSError as error:
                if error.errno in FATAL:
                    raise
                self._failed(file, failure(error, "cannot write", b"/".join(file.target)))
            else:
                done.append(file)
        for file, leaves in written.items():
            self._acknowledge(file, runs_of(sorted(leaves)))
        if done:
            self._published(done)

    def _sync(self, ready: list[Incoming], written: dict[Incoming, list[int]]) -> None:
        files = {*ready, *written}
        if len(files) > SYNC_EACH:
            self._staging.sync()
            return
        for file in files:
            with file.held() as alive:
                if alive and file.fd is not None:
                    os.fdatasync(file.fd)
                elif alive and file.temporary:
                    self._staging.sync_file(file.temporary)

    def _publish(self, file: Incoming) -> None:
        directory = self._directories.get(file.target[:-1])
        name = file.target[-1]
        try:
            self._move(file, name, directory)
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST):
                raise
            self._make_room(os.stat(name, dir_fd=directory, follow_symlinks=False), file.target)
            self._move(file, name, directory)
        file.close()

    def _move(self, file: Incoming, name: bytes, directory: int) -> None:
        self._replacing(name, directory, file.target)
        if file.part is not None:
            self._staging.publish_part(file.part, name, directory)
        else:
            self._staging.publish(file.temporary, name, directory)
