"""Frames: the only thing that travels on a link.

    offset  size  field
    0       2     magic, 0x44 0x57 ("DW")
    2       1     type, see `messages`
    3       1     zero; a receiver refuses anything else
    4       4     head length, at most MAX_HEAD
    8       4     body length, at most MAX_BODY
    12      16    XXH3-128 of the body; zeros when there is none
    28      8     XXH3-64 of the head
    36      4     the low 32 bits of the XXH3-64 of bytes 0 to 36
    40      ...   head: one MessagePack object
    ...     ...   body: bytes, their meaning is the type's

All integers are big-endian. The prefix has a check of its own so that no length is believed, or waited for, before
it is known to be whole. A bad prefix or head means that the boundary of the next frame, or what the body is for, is
unknown: the stream is given up. A bad body is one lost block on a stream that is still good: only that block is
asked for again. Against somebody who means harm no hash helps, and TLS carries that weight off loopback.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import xxhash
from typing_extensions import Buffer

from dwcp.errors import ProtocolError

MAGIC = b"DW"
PREFIX_SIZE = 40
MAX_HEAD = 256 * 1024
"""The largest head in use is a DONE with two full lists of runs, under 200 KB."""
MAX_HEAD_BEFORE_WELCOME = 32 * 1024
"""The largest is a HELLO with the longest of everything, under 26 KB."""
MAX_BODY = 32 * 1024 * 1024
"""The largest body in use is a leaf hash list of the largest file, 2**20 leaves of 32 bytes."""
NO_BODY = 0
"""Handshakes and requests have none: until a transfer begins, a peer can make us allocate a head and nothing more."""

_PREFIX = struct.Struct(">2sBBII16sQ")
_CHECK = struct.Struct(">I")
_EMPTY_HASH = bytes(16)


class FrameError(ProtocolError):
    """The bytes on a stream are no frame: the boundary of the next one is lost, the stream must be closed."""


class NoFrameError(FrameError):
    """The bytes don't begin like a frame: who sent them speaks something else, or they were changed on the way."""


class DamagedError(FrameError):
    """A frame that was changed on the way: nobody is at fault, but the stream is lost."""


class BodyError(ProtocolError):
    """A frame's body is not what its hash says; the stream itself is still good."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """The fixed part of a frame, checked for shape and limits."""

    kind: int
    head_size: int
    body_size: int
    body_hash: bytes
    head_hash: int

    def check_head(self, head: Buffer) -> None:
        """Raises DamagedError when the head was changed on the way."""
        if xxhash.xxh3_64_intdigest(head) != self.head_hash:
            raise DamagedError("a frame's head does not match its check: the stream was corrupted on the way")

    def check_body(self, body: Buffer) -> None:
        """Raises BodyError when the body was changed on the way."""
        if xxhash.xxh3_128_digest(body) != self.body_hash:
            raise BodyError("a frame's body does not match its hash: it was corrupted on the way")


def seal(kind: int, head: bytes, body: Buffer | None = None, body_hash: bytes | None = None) -> bytes:
    """Prefix and head, ready to be sent before `body`.

    `body_hash` spares a second pass where the caller has hashed the body already.
    """
    size = memoryview(body).nbytes if body is not None else 0
    if body is None or size == 0:
        body_hash = _EMPTY_HASH
    elif body_hash is None:
        body_hash = xxhash.xxh3_128_digest(body)
    prefix = _PREFIX.pack(MAGIC, kind, 0, len(head), size, body_hash, xxhash.xxh3_64_intdigest(head))
    return prefix + _CHECK.pack(_check(prefix)) + head


def parse_prefix(raw: bytes, max_body: int = MAX_BODY, max_head: int = MAX_HEAD) -> Prefix:
    """Reads the PREFIX_SIZE bytes that begin a frame. Raises FrameError, before anything is allocated for it."""
    magic, kind, zero, head_size, body_size, body_hash, head_hash = _PREFIX.unpack_from(raw)
    if magic != MAGIC:
        raise NoFrameError(f"this is no frame: it begins with {bytes(magic).hex()} instead of {MAGIC.hex()}")
    if _CHECK.unpack_from(raw, _PREFIX.size) != (_check(raw[: _PREFIX.size]),):
        raise DamagedError("a frame's prefix does not match its check: the stream was corrupted on the way")
    if zero:
        raise FrameError(f"a frame of type {kind} has unknown flags {zero:#04x}")
    if head_size > max_head:
        raise FrameError(f"a frame of type {kind} claims a head of {head_size} bytes; {max_head} are allowed here")
    if body_size > max_body:
        raise FrameError(f"a frame of type {kind} claims a body of {body_size} bytes; {max_body} are allowed here")
    return Prefix(kind, head_size, body_size, body_hash, head_hash)


class FrameReader:
    """Cuts a byte stream into frames, however it is sliced on arrival.

    Invariant: at most one incomplete frame, so at most PREFIX_SIZE + MAX_HEAD + `max_body` bytes, are held.
    """

    def __init__(self, max_body: int = MAX_BODY) -> None:
        self.max_body = max_body
        self._held = bytearray()
        self._prefix: Prefix | None = None

    def feed(self, data: Buffer) -> list[tuple[int, bytes, bytes]]:
        """Whole frames that `data` completes, as (type, head, body). Raises FrameError or BodyError."""
        self._held += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> tuple[int, bytes, bytes] | None:
        if self._prefix is None:
            if len(self._held) < PREFIX_SIZE:
                return None
            self._prefix = parse_prefix(bytes(self._held[:PREFIX_SIZE]), self.max_body)
        prefix = self._prefix
        body_at = PREFIX_SIZE + prefix.head_size
        end = body_at + prefix.body_size
        if len(self._held) < end:
            return None
        head, body = bytes(self._held[PREFIX_SIZE:body_at]), bytes(self._held[body_at:end])
        prefix.check_head(head)
        if body:
            prefix.check_body(body)
        del self._held[:end]
        self._prefix = None
        return prefix.kind, head, body


def _check(prefix: bytes) -> int:
    return xxhash.xxh3_64_intdigest(prefix) & 0xFFFFFFFF
