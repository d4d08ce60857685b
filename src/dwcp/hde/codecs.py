"""Entropy codecs behind one table. An encoded body never says how large it decodes: the frame does, and is believed
only up to a limit, so a bomb ends after the bytes that were promised."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cramjam
import lz4.block
from typing_extensions import Buffer

from dwcp.errors import ProtocolError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LEVELS = ("fast", "balanced", "max")
PROBE = 16 * 1024
"""Bytes of a block that tell whether compressing it can pay, at three places."""
WINDOW_LOG_MAX = 24
"""16 MiB, the largest leaf: a frame that asks the decoder for more memory than that is refused."""


@dataclass(frozen=True, slots=True)
class Codec:
    """`id` is what travels. `decode(data, size)` gives exactly `size` bytes or raises ProtocolError."""

    id: int
    name: str
    encode: Callable[[Buffer, str], bytes]
    decode: Callable[[Buffer, int], bytes]


def _plain(data: Buffer, level: str) -> bytes:
    return bytes(data)


def _plain_back(data: Buffer, size: int) -> bytes:
    return bytes(data)


# zstd: 1 is its fastest regular level, 3 its default; 9 is the last that still encodes faster than a 1 Gbit/s link.
ZSTD_LEVELS: Mapping[str, int] = {"fast": 1, "balanced": 3, "max": 9}


def _zstd(data: Buffer, level: str) -> bytes:
    return zstd.compress(data, ZSTD_LEVELS[level])


def zstd_back(data: Buffer, size: int, dictionary: zstd.ZstdDict | None = None) -> bytes:
    """At most one byte more than `size`. Raises ProtocolError, ZstdError."""
    decompressor = zstd.ZstdDecompressor(
        dictionary, options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG_MAX}
    )
    out = decompressor.decompress(data, max_length=size + 1)
    if not decompressor.eof or decompressor.unused_data:
        raise ProtocolError(f"a zstd body is not one frame of {size} bytes")
    return out


_LZ4_MODES: Mapping[str, Mapping[str, object]] = {
    "fast": {"mode": "default"},
    "balanced": {"mode": "high_compression", "compression": 3},
    "max": {"mode": "high_compression", "compression": 9},
}


def _lz4(data: Buffer, level: str) -> bytes:
    packed: bytes = lz4.block.compress(data, store_size=False, **_LZ4_MODES[level])
    return packed


def _lz4_back(data: Buffer, size: int) -> bytes:
    out: bytes = lz4.block.decompress(data, uncompressed_size=size)
    return out


def _snappy(data: Buffer, level: str) -> bytes:
    # snappy has no levels: all three mean the same
    return bytes(cramjam.snappy.compress_raw(data))


def _snappy_back(data: Buffer, size: int) -> bytes:
    # the length stands in front of a raw snappy body and would be allocated unseen
    if cramjam.snappy.decompress_raw_len(data) != size:
        raise ProtocolError(f"a snappy body does not hold the {size} bytes that it should")
    return bytes(cramjam.snappy.decompress_raw(data))


def _zeros(data: Buffer, level: str) -> bytes:
    return b""


def _zeros_back(data: Buffer, size: int) -> bytes:
    return bytes(size)


NONE = Codec(0, "none", _plain, _plain_back)
ZERO = Codec(255, "zero", _zeros, _zeros_back)
"""A leaf of nothing but zeros: no body, and a hole where the receiver's file system has them."""
CODECS = (
    NONE,
    Codec(1, "zstd", _zstd, zstd_back),
    Codec(2, "lz4", _lz4, _lz4_back),
    Codec(3, "snappy", _snappy, _snappy_back),
)
BY_NAME = {codec.name: codec for codec in CODECS}
_BY_ID = {codec.id: codec for codec in (*CODECS, ZERO)}


def encode(codec: Codec, level: str, data: Buffer, min_ratio: float) -> tuple[Codec, Buffer]:
    """The body for `data` and the codec that made it: NONE and `data` itself where `min_ratio` is missed.

    Probes save encoding what will not shrink: media, ciphertext, archives. There are three, because a pack of files may
    have a picture in its middle.
    """
    view = memoryview(data).cast("B")
    if codec is NONE or not len(view):
        return NONE, data
    if len(view) >= 4 * PROBE:
        places = (len(view) * quarter // 4 for quarter in (2, 1, 3))
        if not any(_shrinks(codec, view[place : place + PROBE], min_ratio) for place in places):
            return NONE, data
    packed = codec.encode(view, level)
    if len(packed) * min_ratio > len(view):
        return NONE, data
    return codec, packed


def _shrinks(codec: Codec, probe: memoryview, min_ratio: float) -> bool:
    return len(codec.encode(probe, "fast")) * min(min_ratio, 1.05) <= len(probe)


def encode_names(data: bytes) -> bytes:
    """A list of names and times: always worth a fast zstd, whatever the configuration wants for content."""
    return _zstd(data, "fast")


def decode_names(data: Buffer, size: int) -> Buffer:
    """Raises ProtocolError as `decode`."""
    return decode(BY_NAME["zstd"].id, data, size)


def decode(codec_id: int, data: Buffer, size: int) -> Buffer:
    """Exactly `size` bytes. Raises ProtocolError for an unknown codec, a damaged body, or another length."""
    codec = _BY_ID.get(codec_id)
    if codec is None:
        raise ProtocolError(f"unknown codec {codec_id}")
    if codec is NONE:
        out: Buffer = data
    else:
        try:
            out = codec.decode(data, size)
        except (zstd.ZstdError, lz4.block.LZ4BlockError, cramjam.DecompressionError, ValueError, EOFError) as error:
            raise ProtocolError(f"a {codec.name} body cannot be decoded: {error}") from error
    if memoryview(out).nbytes != size:
        raise ProtocolError(f"a {codec.name} body decodes to {memoryview(out).nbytes} bytes instead of {size}")
    return out
