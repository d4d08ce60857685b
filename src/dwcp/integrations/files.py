"""Files of a peer that are open: read range by range; written to a local file, which is sent when it is closed."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any

from fsspec.asyn import sync
from fsspec.spec import AbstractBufferedFile
from typing_extensions import Buffer

from dwcp.errors import TemporaryError
from dwcp.integrations.translation import Info


class Outgoing:
    """A local file that becomes what will be sent; gone after the `with` block, or `discard`."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="dwcp-")
        self.path = Path(self._directory.name, "content")
        # with the permissions that the user's umask gives to a new file
        self._file = self.path.open("wb")

    def write(self, data: Buffer) -> None:
        """Raises OSError."""
        self._file.write(data)

    def finish(self) -> None:
        """All has been written. Raises OSError."""
        self._file.close()

    def discard(self) -> None:
        try:
            self._file.close()
        finally:
            self._directory.cleanup()

    def __enter__(self) -> Outgoing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


class RemoteFile(AbstractBufferedFile):
    """What is read is of one state of the file: where it changes meanwhile, TemporaryError is raised. What is written
    is at the peer when `close` has returned; where the `with` block fails, or nobody closes it, nothing is sent."""

    _outgoing: Outgoing | None = None

    def __init__(self, *args: Any, details: Info | None = None, **kwargs: Any) -> None:
        """`details`: what `info` told of the file; asked for when it is needed first, without."""
        self._details = details
        super().__init__(*args, **kwargs)

    def _fetch_range(self, start: int, end: int) -> bytes:
        if self.details["size"] != self.size:
            raise TemporaryError(f"{self.path} changed since it was opened; open it again")
        content: bytes = sync(self.fs.loop, self.fs._read_range, self.path, start, end, self.details)
        return content

    def _initiate_upload(self) -> None:
        self._outgoing = Outgoing()

    def _upload_chunk(self, final: bool = False) -> bool:
        outgoing = self._outgoing
        if outgoing is None:
            raise ValueError(f"{self.path} was given up")
        try:
            outgoing.write(self.buffer.getbuffer())
            if final:
                outgoing.finish()
        except OSError:
            self.discard()
            self.closed = True
            raise
        if final and self.autocommit:
            self.commit()
        return True

    def commit(self) -> None:
        """Sends what was written. Raises as `put_file`."""
        outgoing = self._outgoing
        if outgoing is None:
            raise ValueError(f"{self.path} was given up")
        try:
            self.fs.put_file(str(outgoing.path), self.path, mode="create" if self.mode == "xb" else "overwrite")
        finally:
            self.discard()

    def discard(self) -> None:
        """Forgets what was written."""
        outgoing, self._outgoing = self._outgoing, None
        if outgoing is not None:
            outgoing.discard()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self.mode != "rb":
            self.discard()
            self.closed = True
        self.close()

    def __del__(self) -> None:
        if not self.closed and self.mode != "rb":
            self.discard()
            self.closed = True
            warnings.warn(f"{self.path} was written to and never closed; nothing was sent", ResourceWarning, 2)
        super().__del__()
