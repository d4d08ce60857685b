"""How the literals of a segment are coded, given the part of the base that they replace.

| coding | body |
| --- | --- |
| STORED | the literals |
| ZSTD | a zstd frame of them (`rsync`: copies, and plain compression of the rest) |
| PREFIX | a zstd frame of them; the literals before and what these replace are its raw prefix |
| XOR | a zstd frame of literal xor base, byte n of each `parameter` bytes together: for numbers that moved little |
| BSDIFF | a zstd frame of bsdiff's control, difference and extra blocks (Percival, 2003) |

`auto` looks at samples. Speed is what a caller's budget allows: LEVELS has what each level does on one core.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import bsdiff4.core
from typing_extensions import Buffer

from dwcp.errors import ProtocolError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STORED, ZSTD, PREFIX, XOR, BSDIFF = range(5)
ALGORITHMS = ("auto", "prefix", "xor", "rsync", "bsdiff")
STRIDES = (1, 2, 4, 8)
"""Sizes of the numbers that XOR tries: bytes, half, single and double floats."""
WINDOW_LOG = 27
"""128 MiB: a segment's literals and its prefix."""
MAX_BSDIFF = 4 * 1024 * 1024
"""Bytes on each side: its suffix array takes 8 times the base, and a second for each 2 MiB."""
SAMPLES, SAMPLE = 16, 16 * 1024
"""Blocks that `auto` looks at, and bytes of each."""
LEVELS = ((19, 1.5e6), (15, 6e6), (12, 15e6), (9, 50e6), (6, 85e6), (5, 110e6), (3, 160e6), (1, 230e6))
"""(zstd level, bytes/s of literals on one core, a prefix as long included), measured on a disk image's new packages.
One thread: zstd's workers see a prefix in their first job alone, and were no faster here."""
LARGE = 8 * 1024 * 1024
"""Bytes of literals that are not worth a try of compression when samples do not shrink."""
_BSDIFF = struct.Struct("<III")
_TRIPLE = struct.Struct("<QQQ")
_SIGN = 1 << 63


@dataclass(frozen=True, slots=True)
class Residue:
    """The literals of one segment, and how to get at what they replace."""

    literal: bytes
    prefix: Callable[[], bytes]
    """The replaced content (`operations.replaced`)."""
    history: bytes
    """The literals of the segment before, or their end."""
    twin: Callable[[], bytes]
    """As long as the literals, each of them beside its like (`operations.aligned`)."""


def level_for(size: int, budget: float) -> int:
    """The highest level that codes `size` bytes within `budget` seconds."""
    return next((level for level, rate in LEVELS if size <= rate * budget), LEVELS[-1][0])


def encode(residue: Residue, algorithm: str, budget: float) -> tuple[int, int, bytes]:
    """(coding, parameter, body), in about `budget` seconds of one core. The body is never longer than the literals."""
    literal = residue.literal
    if not literal:
        return STORED, 0, b""
    made = _made(residue, algorithm, budget)
    return made if len(made[2]) < len(literal) else (STORED, 0, literal)


def _made(residue: Residue, algorithm: str, budget: float) -> tuple[int, int, bytes]:
    literal = residue.literal
    stride = 1
    if algorithm == "auto":
        algorithm, stride = _choose(residue)
    if algorithm == "none":
        return STORED, 0, literal
    if algorithm == "xor":
        mixed = _planes(_xor(literal, residue.twin()), stride)
        # planes of numbers have next to no repetition that a higher level could find
        level = level_for(len(mixed), budget) if stride == 1 else 1
        return XOR, stride, _compress(mixed, b"", level)
    if algorithm == "rsync":
        return ZSTD, 0, _compress(literal, b"", level_for(len(literal), budget))
    prefix = residue.prefix()
    if algorithm == "bsdiff" and 0 < len(prefix) <= MAX_BSDIFF and len(literal) <= MAX_BSDIFF:
        return BSDIFF, 0, _bsdiff(literal, prefix)
    prefix = residue.history + prefix
    return PREFIX, 0, _compress(literal, prefix, level_for(len(literal) + len(prefix) // 4, budget))


def _choose(residue: Residue) -> tuple[str, int]:
    """What does best on samples: (algorithm, stride)."""
    literal, twin = residue.literal, residue.twin()
    step = max(SAMPLE, len(literal) // SAMPLES)
    places = range(0, len(literal), step)
    new = b"".join(literal[at : at + SAMPLE] for at in places)
    old = b"".join(twin[at : at + SAMPLE] for at in places)
    plain = len(_compress(new, b"", 1))
    with_prefix = len(_compress(new, old, 1))
    mixed = _xor(new, old)
    by_stride = {stride: len(_compress(_planes(mixed, stride), b"", 1)) for stride in STRIDES}
    stride = min(STRIDES, key=by_stride.__getitem__)
    # in samples the matches over a distance are missing, which a prefix also finds
    if by_stride[stride] < 0.9 * min(plain, with_prefix):
        return "xor", stride
    if min(plain, with_prefix) > 0.995 * len(new) and len(literal) > LARGE:
        return "none", 1
    return "prefix", 1


def decode(coding: int, parameter: int, body: bytes, size: int, residue: Residue) -> bytes:
    """The `size` bytes of literals. `residue.literal` is not used. Raises ProtocolError."""
    try:
        if coding == STORED:
            out = body
        elif coding == ZSTD:
            out = _decompress(body, b"", size)
        elif coding == PREFIX:
            out = _decompress(body, residue.history + residue.prefix(), size)
        elif coding == XOR:
            if parameter not in STRIDES:
                raise ProtocolError(f"a delta groups numbers of {parameter} bytes")
            out = _xor(_unplanes(_decompress(body, b"", size), parameter), residue.twin())
        elif coding == BSDIFF:
            out = _bspatch(body, residue.prefix(), size)
        else:
            raise ProtocolError(f"a delta has literals in unknown coding {coding}")
    except (zstd.ZstdError, ValueError, EOFError) as error:
        raise ProtocolError(f"literals of a delta cannot be decoded: {error}") from error
    if len(out) != size:
        raise ProtocolError(f"literals of a delta decode to {len(out)} bytes instead of {size}")
    return out


def _compress(data: Buffer, prefix: bytes, level: int) -> bytes:
    size = memoryview(data).nbytes
    parameter = zstd.CompressionParameter
    total = size + len(prefix)
    window = min(WINDOW_LOG, max(10, total.bit_length()))
    options: dict[Any, int] = {parameter.compression_level: level, parameter.window_log: window}
    if total > 1024 * 1024:
        options[parameter.enable_long_distance_matching] = 1
    # a prefix is for one frame, and nothing of it is kept
    raw = zstd.ZstdDict(prefix, is_raw=True).as_prefix if len(prefix) >= 8 else None
    compressor = zstd.ZstdCompressor(options=options, zstd_dict=raw)
    compressor.set_pledged_input_size(size)
    return compressor.compress(data, compressor.FLUSH_FRAME)


def _decompress(body: bytes, prefix: bytes, size: int) -> bytes:
    raw = zstd.ZstdDict(prefix, is_raw=True).as_prefix if len(prefix) >= 8 else None
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
    decompressor = zstd.ZstdDecompressor(zstd_dict=raw, options=options)
    out = decompressor.decompress(body, max_length=size + 1)
    if not decompressor.eof or decompressor.unused_data:
        raise ProtocolError(f"a zstd body is not one frame of {size} bytes")
    return out


def _xor(one: bytes, other: bytes) -> bytes:
    """In pieces: the integers stay in the cache."""
    piece = 64 * 1024
    out = bytearray(len(one))
    for at in range(0, len(one), piece):
        a, b = one[at : at + piece], other[at : at + piece]
        mixed = int.from_bytes(a, "little") ^ int.from_bytes(b, "little")
        out[at : at + len(a)] = mixed.to_bytes(len(a), "little")
    return bytes(out)


def _planes(data: bytes, stride: int) -> bytes:
    """Byte 0 of each group, then byte 1 of each..."""
    return data if stride == 1 else b"".join(data[plane::stride] for plane in range(stride))


def _unplanes(data: bytes, stride: int) -> bytes:
    if stride == 1:
        return data
    out = bytearray(len(data))
    at = 0
    for plane in range(stride):
        count = len(range(plane, len(data), stride))
        out[plane::stride] = data[at : at + count]
        at += count
    return bytes(out)


def _bsdiff(literal: bytes, base: bytes) -> bytes:
    control, difference, extra = bsdiff4.core.diff(base, literal)
    head = _BSDIFF.pack(len(control) // _TRIPLE.size, len(difference), len(extra))
    return head + _compress(control + difference + extra, b"", 19)


def _bspatch(body: bytes, base: bytes, size: int) -> bytes:
    if len(body) < _BSDIFF.size:
        raise ProtocolError("a bsdiff body is cut short")
    count, difference, extra = _BSDIFF.unpack_from(body)
    if difference + extra != size or count > size + 1 or max(size, len(base)) > MAX_BSDIFF:
        raise ProtocolError("a bsdiff body does not fit its literals")
    plain = _decompress(body[_BSDIFF.size :], b"", count * _TRIPLE.size + size)
    if len(plain) != count * _TRIPLE.size + size:
        raise ProtocolError("a bsdiff body is cut short")
    at = count * _TRIPLE.size
    # the patcher is C: what it is told is looked at first
    place = copies = 0
    for copied, added, seek in _TRIPLE.iter_unpack(plain[:at]):
        if max(copied, added) > size or place + copied > len(base):
            raise ProtocolError("a bsdiff body refers to content outside of its base")
        # sign and magnitude
        place += copied + (_SIGN - seek if seek & _SIGN else seek)
        copies += copied
        if not 0 <= place <= len(base):
            raise ProtocolError("a bsdiff body refers to content outside of its base")
    if copies != difference:
        raise ProtocolError("a bsdiff body does not add up to its literals")
    patched: bytes = bsdiff4.core.patch(base, size, plain[:at], plain[at : at + difference], plain[at + difference :])
    return patched
