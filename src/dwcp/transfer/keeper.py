"""Which of a transfer's files have a copy of their old version here, and what becomes of the copies in the end."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import structlog

from dwcp.errors import DwcpError
from dwcp.store.baselines import KeptCopies
from dwcp.transfer.segments import LEAST, KeptBase
from dwcp.transfer.source import FileReader
from dwcp.transfer.work import Outgoing
from dwcp.wire.paths import display

MAX_WAITING = 64
"""Files that are held open until their copies are renewed; those beyond are compared as a whole the next time."""

log = structlog.get_logger()


class Keeper:
    """Of one sender. All but `close` are called with the file's lock held, or when nobody else has the file."""

    def __init__(self, copies: KeptCopies | None) -> None:
        self._copies = copies
        self._updating = ThreadPoolExecutor(1, "dwcp-keep")
        self._waiting = 0

    def open(self, file: Outgoing) -> None:
        """The file is about to be read: finds its old version, or begins a copy of this one."""
        if self._copies is None or file.size < LEAST or not isinstance(file.reader, FileReader):
            return
        path = file.entry.path
        copy = self._copies.find(path)
        if copy is not None:
            if file.base_size and copy.size == file.base_size:
                file.kept = KeptBase(copy)
                return
            copy.leave()
        copy = self._copies.make(path, file.size)
        if copy is not None and not file.reader.clone_to(copy.clone):
            file.written = copy
        elif copy is not None:
            copy.finish(file.size, anew=True)

    def doubt(self, file: Outgoing) -> None:
        """The receiver's old version is not what is here."""
        kept, file.kept = file.kept, None
        if kept is not None:
            log.info("the copy of a file's last version is not what the peer has", path=display(file.entry.path))
            kept.discard()

    def settle(self, file: Outgoing) -> None:
        """The receiver has the file."""
        written, file.written = file.written, None
        if written is not None:
            written.finish(file.size, anew=True)
        kept, file.kept = file.kept, None
        if kept is None:
            return
        if isinstance(file.reader, FileReader) and self._waiting < MAX_WAITING:
            reader, file.reader = file.reader, None
            self._waiting += 1
            self._updating.submit(self._update, kept, reader, file)
        else:
            kept.close()

    def _update(self, kept: KeptBase, reader: FileReader, file: Outgoing) -> None:
        try:
            kept.update(reader, file.size, file.renewed, file.leaf_size)
        except Exception as error:
            kept.discard()
            if not isinstance(error, DwcpError):
                log.exception("the copy of what was sent cannot be renewed through a fault of this program")
            log.info("the copy of what was sent is not renewed", path=display(file.entry.path), reason=str(error))
        finally:
            self._waiting -= 1
            reader.close()

    def let_go(self, file: Outgoing) -> None:
        """The transfer ends before the receiver has the file."""
        written, file.written = file.written, None
        if written is not None:
            written.discard()
        kept, file.kept = file.kept, None
        if kept is not None:
            kept.close()

    def close(self) -> None:
        """Returns when the copies are what was sent."""
        self._updating.shutdown()
