"""Names and ranges of files at a peer, without a transfer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwcp.errors import ProtocolError, TemporaryError, UsageError
from dwcp.wire import messages as m
from dwcp.wire.handshake import READ
from dwcp.wire.paths import display

if TYPE_CHECKING:
    from dwcp.transfer.requests import Requests

READS_AHEAD = 32
"""Requests of MAX_READ on their way at a time: 32 MiB fill 1 Gbit/s over a round trip of a quarter of a second."""
BYTES_AHEAD = 16 * 1024
"""What these requests may take together: the smallest socket buffers hold it, so that sending them never waits for a
peer which itself waits until we read its answers."""

_REQUEST = 128
"""Bytes of a READ beside its path, a TLS record around it included."""


@dataclass(frozen=True, slots=True)
class RemoteEntry:
    """One name at a peer. `kind`: file, dir, symlink, special or export; `size` in bytes; `target` of a symlink."""

    name: str
    kind: str
    size: int
    mtime_ns: int
    mode: int
    target: str


def ls(requests: Requests, path: str) -> list[RemoteEntry]:
    """See `Peer.ls`; blocks, as all here."""
    answers = requests.ask(m.List(path=os.fsencode(path)), m.Listing, again=True)
    return [_entry(entry) for answer in answers for entry in answer.entries]


def stat(requests: Requests, path: str) -> RemoteEntry:
    """See `Peer.stat`."""
    request = m.List(path=os.fsencode(path.rstrip("/")), itself=True)
    if not request.path:
        raise UsageError("name an export at the peer, or a path in one: what has no name cannot be looked at")
    found = [entry for answer in requests.ask(request, m.Listing, READ, again=True) for entry in answer.entries]
    if len(found) != 1:
        raise ProtocolError(f"the peer tells of {len(found)} names where it was asked for {path!r} alone")
    return _entry(found[0])


def read(requests: Requests, path: str, offset: int, size: int, unchanged: RemoteEntry | None) -> bytes:
    """See `Peer.read`."""
    if offset < 0 or size < 0:
        raise UsageError(f"cannot read {size} bytes from {offset}: neither can be negative")
    range_ = _Range(path, offset, (unchanged.size, unchanged.mtime_ns) if unchanged is not None else None)
    pieces: list[bytes] = []
    if range_.state is None and size:
        # what the first answer tells of the file bounds the others
        first = min(size, m.MAX_READ)
        pieces = range_.ask(requests, first)
        size -= first
    if range_.state is not None:
        pieces += range_.ask(requests, min(size, max(0, range_.state[0] - range_.offset)))
    return b"".join(pieces)


class _Range:
    """`state`: size and mtime_ns of the file that it is a range of, once they are known."""

    def __init__(self, path: str, offset: int, state: tuple[int, int] | None) -> None:
        self.offset = offset
        self.state = state
        self._path = path

    def ask(self, requests: Requests, size: int) -> list[bytes]:
        """The next `size` bytes, fewer at the end."""
        path, end = os.fsencode(self._path), self.offset + size
        offsets = range(self.offset, end, m.MAX_READ)

        def reads() -> Iterator[m.Read]:
            # one by one: how many they are may be a hostile peer's word
            return (m.Read(path=path, offset=at, size=min(m.MAX_READ, end - at)) for at in offsets)

        self.offset = end
        ahead = max(1, min(READS_AHEAD, BYTES_AHEAD // (len(path) + _REQUEST)))
        answers = requests.ask_ahead(reads, m.Content, READ, ahead=ahead, max_body=m.MAX_READ)
        return [self._check(read, *answer) for read, answer in zip(reads(), answers, strict=True)]

    def _check(self, read: m.Read, content: m.Content, body: bytes) -> bytes:
        state = content.size, content.mtime_ns
        self.state = self.state or state
        if state != self.state:
            raise TemporaryError(f"{self._path} changed while it was read; open it again")
        if len(body) != min(read.size, max(0, content.size - read.offset)):
            raise ProtocolError(f"the peer sent {len(body)} bytes of {self._path} for {read.size} from {read.offset}")
        return body


def _entry(entry: m.ListEntry) -> RemoteEntry:
    if entry.name in (b"", b".", b"..") or b"/" in entry.name or b"\0" in entry.name:
        # somebody may make a path of it
        raise ProtocolError(f"the peer tells of {display(entry.name)}, which is no name")
    return RemoteEntry(
        os.fsdecode(entry.name), entry.type, entry.size, entry.mtime_ns, entry.mode, os.fsdecode(entry.link)
    )
