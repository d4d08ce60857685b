"""The segment format: what a delta is on the wire or in a file. docs/delta-format.md has the tables.

A delta is a header, segments, and a trailer. Integers are big-endian, those of the operations LEB128. Every length is
checked against a limit before anything of that size is allocated; a reader that is given less raises ProtocolError.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass

from typing_extensions import Buffer

from dwcp.errors import ProtocolError, VersionError
from dwcp.hde.codecs import decode, encode_names
from dwcp.hde.hashes import HASHES, Hash
from dwcp.hde.operations import COPY, LITERAL, ZERO, Op, literal_size

MAGIC = b"DWCPHDE"
VERSION = 1
MAX_ID = 255
"""Bytes of a base's name."""
MAX_LITERAL = 64 * 1024 * 1024
"""Bytes of literals in a segment."""
MAX_HISTORY = 32 * 1024 * 1024
MAX_REPLACED = 32 * 1024 * 1024
"""Bytes of the segment before, and of the base, that literals may be coded with: with them a window of 2**27."""
MAX_OPS = 2**17
"""Operations of a segment: some 10 MiB as Python objects."""
MAX_OP_BYTES = 20
"""Two numbers of up to 10 bytes."""
MAX_SIZE = 2**63 - 1

_HASH_IDS = {"xxh3": 0, "blake3": 1}
_HASH_NAMES = {number: name for name, number in _HASH_IDS.items()}
_HEAD = struct.Struct(">7sBBB")
_SIZES = struct.Struct(">QQ")
SEGMENT = struct.Struct(">BBIIII")
_SEGMENT_TAG, _END_TAG = 1, 0
_ZSTD = 1

Take = Callable[[int], bytes]
"""n to the next n bytes; fewer only at the end."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a delta is of. `base_id` names the base among those that the receiver has, `base_root` proves it."""

    hash: Hash
    base_id: bytes
    base_size: int
    base_root: bytes
    size: int
    """Bytes of the new content."""

    def pack(self) -> bytes:
        head = _HEAD.pack(MAGIC, VERSION, _HASH_IDS[self.hash.name], len(self.base_id))
        return head + self.base_id + _SIZES.pack(self.base_size, self.size) + self.base_root


@dataclass(frozen=True, slots=True)
class Segment:
    """`coding` and `parameter` say how `body` holds the literals of `ops` (`residue`)."""

    ops: list[Op]
    coding: int
    parameter: int
    body: bytes

    @property
    def span(self) -> int:
        """Bytes of new content."""
        return sum(length for _, length, _ in self.ops)

    def pack(self) -> bytes:
        plain = _pack_ops(self.ops)
        packed = encode_names(plain)
        head = SEGMENT.pack(
            _SEGMENT_TAG, self.coding << 4 | self.parameter, len(self.ops), len(plain), len(packed), len(self.body)
        )
        return head + packed + self.body


def pack_end(root: bytes) -> bytes:
    """The trailer: the hash of the whole new content."""
    return bytes([_END_TAG]) + root


def read_header(take: Take) -> Header:
    """Raises ProtocolError, VersionError."""
    magic, version, hash_id, id_length = _HEAD.unpack(exactly(take, _HEAD.size))
    if magic != MAGIC:
        raise ProtocolError("this is no delta: it begins with other bytes")
    if version != VERSION:
        raise VersionError(f"a delta of version {version}; this program reads version {VERSION}")
    if hash_id not in _HASH_NAMES:
        raise ProtocolError(f"a delta with unknown hash {hash_id}")
    hash_ = HASHES[_HASH_NAMES[hash_id]]
    base_id = exactly(take, id_length)
    base_size, size = _SIZES.unpack(exactly(take, _SIZES.size))
    if max(base_size, size) > MAX_SIZE:
        raise ProtocolError("a delta of content that no file can hold")
    return Header(hash_, base_id, base_size, exactly(take, hash_.size), size)


def read_segment(take: Take, header: Header, at: int) -> Segment | bytes:
    """The next segment, which begins at offset `at` of the new content, or the root of the trailer.

    Its operations stay within the base and the new content. Raises ProtocolError.
    """
    (tag,) = exactly(take, 1)
    if tag == _END_TAG:
        return exactly(take, header.hash.size)
    if tag != _SEGMENT_TAG:
        raise ProtocolError(f"a delta has a segment of unknown kind {tag}")
    return _read_segment(take, header.base_size, header.size - at)


def unpack_segment(data: Buffer, base_size: int, size: int) -> Segment:
    """A packed segment that stands alone and makes `size` bytes. Raises ProtocolError."""
    stream = io.BytesIO(data)
    if exactly(stream.read, 1) != bytes([_SEGMENT_TAG]):
        raise ProtocolError("this is no segment of a delta: it begins with other bytes")
    segment = _read_segment(stream.read, base_size, size)
    if segment.span != size or stream.read(1):
        raise ProtocolError(f"a segment makes {segment.span} bytes and {size} were promised")
    return segment


def _read_segment(take: Take, base_size: int, left: int) -> Segment:
    """What follows the tag. `left`: bytes of new content that it may make."""
    coded, count, plain_size, packed_size, body_size = SEGMENT.unpack(
        bytes([_SEGMENT_TAG]) + exactly(take, SEGMENT.size - 1)
    )[1:]
    if not 0 < count <= MAX_OPS or plain_size > count * MAX_OP_BYTES or packed_size > plain_size + 512:
        raise ProtocolError("a delta has a segment with more operations than there may be")
    if body_size > MAX_LITERAL:
        raise ProtocolError("a delta has a segment with more literal content than there may be")
    plain = bytes(memoryview(decode(_ZSTD, exactly(take, packed_size), plain_size)))
    ops = _unpack_ops(plain, count, base_size, left)
    return Segment(ops, coded >> 4, coded & 15, exactly(take, body_size))


def exactly(take: Take, size: int) -> bytes:
    """Raises ProtocolError at an early end."""
    data = take(size)
    if len(data) != size:
        raise ProtocolError("a delta is cut short")
    return data


def _pack_ops(ops: list[Op]) -> bytes:
    """All kinds and lengths first, then all offsets: alike stands beside alike. An offset is the distance from where
    the base would continue if nothing had moved since the last operation."""
    lengths, offsets = bytearray(), bytearray()
    expected = 0
    for kind, length, base in ops:
        _varint(lengths, length << 2 | kind)
        if kind == ZERO:
            expected += length
        else:
            distance = base - expected
            _varint(offsets, distance << 1 if distance >= 0 else -distance << 1 | 1)
            expected = base + length
    return bytes(lengths + offsets)


def _unpack_ops(plain: bytes, count: int, base_size: int, left: int) -> list[Op]:
    numbers = _varints(plain)
    if len(numbers) < count:
        raise ProtocolError("a delta has fewer operations than it says")
    expected, used = 0, count
    ops: list[Op] = []
    for number in numbers[:count]:
        kind, length = number & 3, number >> 2
        left -= length
        if not length or left < 0 or kind > LITERAL:
            raise ProtocolError("a delta has an operation that does not fit its content")
        if kind == ZERO:
            ops.append((ZERO, length, 0))
            expected += length
            continue
        if used == len(numbers):
            raise ProtocolError("a delta has fewer offsets than operations")
        distance = numbers[used]
        used += 1
        base = expected + (-(distance >> 1) if distance & 1 else distance >> 1)
        if base < 0 or base > MAX_SIZE or (kind == COPY and base + length > base_size):
            raise ProtocolError("a delta refers to content outside of its base")
        ops.append((kind, length, base))
        expected = base + length
    if used != len(numbers):
        raise ProtocolError("a delta has more offsets than operations")
    if literal_size(ops) > MAX_LITERAL:
        raise ProtocolError("a delta has a segment with more literal content than there may be")
    return ops


def _varint(out: bytearray, number: int) -> None:
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)


def _varints(data: Buffer) -> list[int]:
    numbers: list[int] = []
    value = shift = 0
    for byte in memoryview(data):
        value |= (byte & 127) << shift
        if byte > 127:
            shift += 7
            if shift > 63:
                raise ProtocolError("a delta has a number of more than 64 bits")
        else:
            numbers.append(value)
            value = shift = 0
    if shift:
        raise ProtocolError("a delta ends within a number")
    return numbers
