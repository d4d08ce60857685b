"""Trained dictionaries: what small objects of one kind have in common, so that each need not bring it along.

A dictionary pays where few of them go together: of JSON objects of 900 bytes each, 8 KiB of it save 73 % of a pack of
one, 46 % of five, 19 % of twenty, and nothing worth having of a hundred, which are dictionary enough to each other.
Training is Zstandard's COVER (`zstd --train`, zdict.h).
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import blake3
from typing_extensions import Buffer

from dwcp.errors import ProtocolError
from dwcp.hde import codecs

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SIZE = 8 * 1024
"""Bytes of one that is trained here. 4 KiB save 1 % less, 32 KiB 0.5 % more."""
MAX_SIZE = 64 * 1024
"""Of one that is accepted."""
MAX_CONTENT = 128 * 1024
"""Bytes of content beyond which a dictionary saves nothing that matters."""
SAMPLES_SIZE = 16 * SIZE
"""Bytes of samples that are kept."""
LEAST_SAMPLES = 8
LEAST_SIZE = 2 * SIZE
"""Bytes of samples below which nothing is trained."""
LEAST_SAVING = 0.02
"""Of a pack's bytes, from which on a dictionary is kept."""
HELD_OUT = 4
"""Each fourth sample is not trained with, but judges the result."""


@dataclass(frozen=True, slots=True)
class Dictionary:
    content: bytes
    id: bytes = field(init=False)
    """BLAKE3 of the content, 16 bytes."""
    _loaded: zstd.ZstdDict = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises ValueError for what is no dictionary."""
        object.__setattr__(self, "id", blake3.blake3(self.content).digest(length=16))
        object.__setattr__(self, "_loaded", zstd.ZstdDict(self.content))

    def encode(self, data: Buffer, level: str) -> bytes:
        return zstd.compress(data, codecs.ZSTD_LEVELS[level], zstd_dict=self._loaded)

    def decode(self, data: Buffer, size: int) -> bytes:
        """Exactly `size` bytes. Raises ProtocolError."""
        try:
            out = codecs.zstd_back(data, size, self._loaded)
        except (zstd.ZstdError, ValueError, EOFError) as error:
            raise ProtocolError(f"a body cannot be decoded with its dictionary: {error}") from error
        if len(out) != size:
            raise ProtocolError(f"a body decodes to {len(out)} bytes instead of {size}")
        return out


class Samples:
    """An even choice of all that was offered, within SAMPLES_SIZE (reservoir sampling, Vitter's algorithm R)."""

    def __init__(self, kept: Sequence[bytes] = (), offered: int = 0) -> None:
        self.kept = list(kept)
        self.offered = max(offered, len(self.kept))
        self._size = sum(map(len, self.kept))

    @property
    def full(self) -> bool:
        """Whether a new sample takes another one's place."""
        return self.offered > len(self.kept)

    def offer(self, sample: Buffer, chance: random.Random) -> None:
        view = memoryview(sample)
        if not 0 < view.nbytes <= SAMPLES_SIZE // LEAST_SAMPLES:
            return
        self.offered += 1
        if self._size + view.nbytes <= SAMPLES_SIZE:
            self.kept.append(bytes(view))
            self._size += view.nbytes
            return
        place = chance.randrange(self.offered)
        if place < len(self.kept):
            self._size += view.nbytes - len(self.kept[place])
            self.kept[place] = bytes(view)
            while self._size > SAMPLES_SIZE:
                self._size -= len(self.kept.pop(0))


def train(samples: Sequence[bytes], size: int = SIZE) -> Dictionary | None:
    """`size` bytes. None where they are too few, or have nothing in common."""
    if len(samples) < LEAST_SAMPLES or sum(map(len, samples)) < LEAST_SIZE:
        return None
    try:
        return Dictionary(zstd.train_dict(samples, size).dict_content)
    except (zstd.ZstdError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Use:
    """What was sent since the last judgement: `packs` that a dictionary may serve, and the files in them."""

    packs: int
    files: int


def judge(current: Dictionary | None, samples: Sequence[bytes], use: Use, level: str) -> Dictionary | None:
    """Which dictionary to use from now on: one that would have paid for its way to the peer by what it had saved."""
    fresh = train([sample for number, sample in enumerate(samples) if number % HELD_OUT])
    packs = list(_packs(samples[::HELD_OUT], max(1, round(use.files / max(1, use.packs)))))
    if not packs:
        return None
    without = _mean(packs, None, level)
    best, least = None, without
    if current is not None and (size := _mean(packs, current, level)) < without * (1 - LEAST_SAVING):
        best, least = current, size
    if fresh is not None and (size := _mean(packs, fresh, level)) < without * (1 - LEAST_SAVING):
        return fresh if (least - size) * use.packs > len(packed(fresh)) else best
    return best


def packed(dictionary: Dictionary) -> bytes:
    """As it travels."""
    return zstd.compress(dictionary.content, codecs.ZSTD_LEVELS["max"])


def unpacked(body: Buffer, size: int) -> Dictionary:
    """Raises ProtocolError."""
    if size > MAX_SIZE:
        raise ProtocolError(f"a dictionary of {size} bytes is larger than is allowed")
    try:
        return Dictionary(bytes(codecs.decode_names(body, size)))
    except ValueError as error:
        raise ProtocolError(f"what was sent is no dictionary: {error}") from error


def _packs(samples: Sequence[bytes], files: int) -> Iterator[bytes]:
    for at in range(0, len(samples), files):
        yield b"".join(samples[at : at + files])


def _mean(packs: Sequence[bytes], dictionary: Dictionary | None, level: str) -> float:
    """Bytes of an encoded pack."""
    if dictionary is None:
        sizes = [len(zstd.compress(pack, codecs.ZSTD_LEVELS[level])) for pack in packs]
    else:
        sizes = [len(dictionary.encode(pack, level)) for pack in packs]
    return sum(sizes) / len(sizes)
