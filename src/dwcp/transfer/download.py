"""A file from a peer into a stream: it is received and verified in a temporary directory first, because a stream cannot
take back bytes that turn out to be wrong."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from dwcp.errors import StorageError, UsageError

_NAME = b"content"


class StreamDestination:
    """`destination` is where the file has to be received; then `copy` brings it into the stream."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._directory = tempfile.TemporaryDirectory(prefix="dwcp-")

    @property
    def destination(self) -> tuple[Path, tuple[bytes, ...]]:
        return Path(self._directory.name), (_NAME,)

    def copy(self) -> None:
        """Raises UsageError when a tree was received, StorageError when the stream does not take it."""
        path = Path(self._directory.name) / _NAME.decode()
        if not path.is_file() or path.is_symlink():
            raise UsageError("only a single file can be written to a stream; name a directory to get a tree")
        try:
            with path.open("rb") as file:
                shutil.copyfileobj(file, self._stream, 1024 * 1024)
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise StorageError(f"cannot write to the output stream: {error.strerror}") from error

    def __enter__(self) -> StreamDestination:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._directory.cleanup()
