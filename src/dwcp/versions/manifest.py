"""What a version holds, as text that jq(1) reads.

    manifest   one JSON object a line for each name, in the order of `walk`
    summary    a sealed line (`store.records`): when, of what, how much, and the BLAKE3 of `manifest`
    checked    a sealed line, replaced by each check: when, and what was found damaged

Paths are percent-encoded (RFC 3986), because a name on Linux need not be UTF-8 and JSON has to be.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Generator
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

import blake3
import msgspec

from dwcp.errors import StorageError
from dwcp.files.root import Parts
from dwcp.store.records import DamagedError, seal, unseal_all

MAX_LINE = 1024 * 1024
"""Bytes of one line: a path and a link of 4 KiB, each byte encoded in three, and xattrs of 64 KiB in base64, fit."""
MAX_SUMMARY = 64 * 1024


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One name. `path` is relative to what the version is of, empty for that itself; `link` the target of a symlink, or
    the first name of a hard link. `hash`: BLAKE3 of the content, hexadecimal."""

    path: str
    type: str
    mode: int = 0
    mtime_ns: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    hash: str = ""
    link: str = ""
    xattrs: dict[str, bytes] = {}
    seen: tuple[int, int] = (0, 0)
    """Inode and ctime (ns) of the live file that this was taken from: while it has both, it is what it was."""

    @property
    def parts(self) -> Parts:
        return unquoted(self.path)


class Summary(msgspec.Struct, frozen=True):
    """`bytes` of all files, `new_bytes` of those that are not shared with the version before."""

    format: int
    path: str
    taken_at: datetime.datetime
    entries: int
    files: int
    bytes: int
    new_bytes: int
    digest: str


class Checked(msgspec.Struct, frozen=True):
    """`damaged`: how many files are not what they were; `paths`: the first of them, percent-encoded."""

    at: datetime.datetime
    damaged: int
    paths: list[str] = []


def quoted(parts: Parts) -> str:
    """As `Entry.path` and `Entry.link` have it."""
    return quote_from_bytes(b"/".join(parts))


def unquoted(text: str) -> Parts:
    """The other way round."""
    return tuple(unquote_to_bytes(text).split(b"/")) if text else ()


class Writer:
    """Writes a manifest, and counts. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._hash = blake3.blake3()
        self.entries = self.files = self.bytes = self.new_bytes = 0

    def add(self, entry: Entry, *, new: bool) -> None:
        """`new`: its content is not shared with the version before."""
        line = msgspec.json.encode(entry) + b"\n"
        self._hash.update(line)
        self._file.write(line)
        self.entries += 1
        if entry.type == "file":
            self.files += 1
            self.bytes += entry.size
            self.new_bytes += entry.size if new else 0

    def close(self) -> None:
        self._file.close()

    def summary(self, path: Parts, taken_at: datetime.datetime) -> Summary:
        return Summary(
            1,
            quoted(path),
            taken_at,
            self.entries,
            self.files,
            self.bytes,
            self.new_bytes,
            self._hash.hexdigest(),
        )


def read(path: Path, digest: str) -> Generator[Entry, None, None]:
    """The entries of a manifest whose BLAKE3 is `digest`. Raises StorageError, at the latest after the last entry,
    where it is not what was written: whoever acts on an entry asks `is_whole` first. It holds a file: whoever may leave
    before the end closes it."""
    running = blake3.blake3()
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE):
                running.update(line)
                yield msgspec.json.decode(line, type=Entry)
    except OSError as error:
        raise StorageError(f"cannot read the manifest of {path.parent.name}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StorageError(f"the manifest of {path.parent.name} is damaged: {error}") from error
    if running.hexdigest() != digest:
        raise StorageError(f"the manifest of {path.parent.name} is damaged: it is not what was written")


def is_whole(path: Path, digest: str) -> bool:
    """Whether a manifest can be read and is what was written."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, blake3.blake3).hexdigest() == digest  # type: ignore[arg-type]
    except OSError:
        return False


def sealed(value: Summary | Checked) -> bytes:
    return seal(msgspec.json.encode(value))


def read_summary(path: Path) -> Summary:
    """Raises StorageError."""
    return msgspec.json.decode(_unsealed(path), type=Summary)


def read_checked(path: Path) -> Checked | None:
    """None where no check has been. Raises StorageError."""
    if not path.exists():
        return None
    return msgspec.json.decode(_unsealed(path), type=Checked)


def _unsealed(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return unseal_all(file.read(MAX_SUMMARY))
    except OSError as error:
        raise StorageError(f"cannot read {path.name} of {path.parent.name}: {error.strerror}") from error
    except DamagedError as error:
        raise StorageError(f"{path.name} of {path.parent.name} is damaged: {error}") from error
