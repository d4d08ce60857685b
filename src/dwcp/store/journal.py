"""What of an unfinished file has been written: append-only, one record a leaf, so that kill -9 costs at most a record.

    header   magic, length and checksum, then what the file is to become (JSON)
    record   leaf number (4 bytes), digest of the leaf, checksum (4 bytes); integers big-endian

A record is written after its leaf, but neither is synced, so after a power cut the journal may promise what the disk
does not hold. That is why whoever resumes hashes the leaves again and believes only what matches; and why it needs no
ordering of writes to be right. A damaged tail ends the journal where it begins.
"""

from __future__ import annotations

import errno
import json
import os
import struct

import xxhash

MAGIC = b"DWCPJ001"
_HEADER = struct.Struct(">8sII")


class Journal:
    """Over an open descriptor (read, write, append), which the caller owns."""

    def __init__(self, fd: int, digest_size: int) -> None:
        self._fd = fd
        self._record = struct.Struct(f">I{digest_size}sI")

    def begin(self, about: dict[str, str | int]) -> None:
        """Starts it anew. Raises OSError."""
        os.ftruncate(self._fd, 0)
        _append(self._fd, _header(about))

    def add(self, leaf: int, digest: bytes) -> None:
        """Appends a record; one write, so threads need no lock (O_APPEND, write(2)). Raises OSError."""
        body = leaf.to_bytes(4, "big") + digest
        _append(self._fd, self._record.pack(leaf, digest, _check(body)))

    def read(self, about: dict[str, str | int]) -> dict[int, bytes] | None:
        """Digest of each journalled leaf; None when this is no journal of the same thing. Raises OSError."""
        header = _header(about)
        if os.pread(self._fd, len(header), 0) != header:
            return None
        leaves: dict[int, bytes] = {}
        at = len(header)
        while len(record := os.pread(self._fd, self._record.size, at)) == self._record.size:
            leaf, digest, check = self._record.unpack(record)
            if _check(record[:-4]) != check:
                break
            leaves[leaf] = digest
            at += self._record.size
        # whatever follows the last good record would hide the records that are appended next
        os.ftruncate(self._fd, at)
        return leaves


def _header(about: dict[str, str | int]) -> bytes:
    text = json.dumps(about, sort_keys=True).encode()
    return _HEADER.pack(MAGIC, len(text), _check(text)) + text


def _append(fd: int, data: bytes) -> None:
    """A write cut short by a full disk is an error at once: half a record would hide all that follow."""
    if os.write(fd, data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _check(data: bytes) -> int:
    return xxhash.xxh32_intdigest(data)
