"""What a replica has, so that two of them find what differs in bytes and round trips that grow with the difference.

A key has a place, the first 16 bits of its hash. For each level of LEVELS the places are cut into 2^level ranges, its
nodes, and each node holds the sum (modulo 2^64) of the fingerprints of the entries in it: a change costs one addition a
level, and the sum of nothing is 0. The root is compared whole. Below it 32 bits travel for a sum, those of its product
with a salt that is new in each round (multiplicative hashing: Dietzfelbinger et al., 1997), so that two that look alike
by chance do so once.

For 100 differences among 10,000 entries all of that takes some 6 KiB.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence

import xxhash

LEVELS = (0, 8, 10, 12, 14, 16)
"""Bits of the place. A step by 2 bits costs 16 bytes for each node that differs, and a round trip."""
DEEPEST = LEVELS[-1]
HASH_SIZE = 4
_MASK = 2**64 - 1


class Digest:
    def __init__(self) -> None:
        self._sums = {level: array("Q", bytes(8 << level)) for level in LEVELS}
        self._keys: dict[int, dict[int, str]] = {}
        """By place and fingerprint."""
        self.count = 0

    @property
    def root(self) -> int:
        return self._sums[0][0]

    def add(self, key: str, fingerprint: int) -> None:
        place = place_of(key)
        self._keys.setdefault(place, {})[fingerprint] = key
        self._shift(place, fingerprint)
        self.count += 1

    def remove(self, key: str, fingerprint: int) -> None:
        place = place_of(key)
        here = self._keys[place]
        del here[fingerprint]
        if not here:
            del self._keys[place]
        self._shift(place, -fingerprint)
        self.count -= 1

    def _shift(self, place: int, by: int) -> None:
        for level, sums in self._sums.items():
            node = place >> (DEEPEST - level)
            sums[node] = (sums[node] + by) & _MASK

    def hashes(self, level: int, nodes: Iterable[int], salt: int) -> list[int]:
        """32 bits of each node's sum; 0 for a node without entries."""
        sums = self._sums[level]
        return [salted(sums[node], salt) for node in nodes]

    def items(self, level: int, node: int) -> Iterator[tuple[int, str]]:
        """(fingerprint, key) of all entries in a node."""
        if level == 0:
            for here in self._keys.values():
                yield from here.items()
            return
        width = 1 << (DEEPEST - level)
        for place in range(node * width, (node + 1) * width):
            yield from self._keys.get(place, {}).items()


def place_of(key: str) -> int:
    return xxhash.xxh3_64_intdigest(key.encode()) >> (64 - DEEPEST)


def salted(value: int, salt: int) -> int:
    """32 bits of 64."""
    return ((value * (salt | 1)) & _MASK) >> 32


def below(level: int) -> int:
    """The next level; it must not be the deepest."""
    return LEVELS[LEVELS.index(level) + 1]


def children(level: int, node: int) -> range:
    """Nodes of the level below that the node is made of."""
    width = 1 << (below(level) - level)
    return range(node * width, (node + 1) * width)


def pack_hashes(hashes: Sequence[int]) -> bytes:
    return struct.pack(f">{len(hashes)}I", *hashes)


def unpack_hashes(data: bytes) -> list[int]:
    """Bytes beyond the last whole one are left out."""
    return [value for (value,) in struct.iter_unpack(">I", data[: len(data) // HASH_SIZE * HASH_SIZE])]


def pack_nodes(nodes: Sequence[int]) -> bytes:
    return struct.pack(f">{len(nodes)}H", *nodes)


def unpack_nodes(data: bytes) -> list[int]:
    return [value for (value,) in struct.iter_unpack(">H", data[: len(data) // 2 * 2])]


_RIVAL = struct.Struct(">6sQ")


def pack_rival(key: str, stamp: int) -> bytes:
    """A key, by 48 bits of its hash, and the stamp of its version."""
    return _RIVAL.pack(_hash_of(key), stamp)


def unpack_rivals(data: bytes) -> dict[bytes, int]:
    """Stamps by hash; `older` looks there."""
    return dict(_RIVAL.iter_unpack(data[: len(data) // _RIVAL.size * _RIVAL.size]))


def is_older(key: str, stamp: int, rivals: dict[bytes, int]) -> bool:
    return rivals.get(_hash_of(key), 0) > stamp


def _hash_of(key: str) -> bytes:
    # the low end: the high one is the place, which all keys of a node share
    return xxhash.xxh3_64_digest(key.encode())[2:]
