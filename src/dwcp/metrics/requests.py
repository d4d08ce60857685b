"""Requests as they are counted, in whichever process answers them. The standard library alone: one of them is small."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)
"""Upper bounds of times to answer, seconds."""
Key = tuple[str, str, int]
"""Method, route, status."""


class Count:
    """`buckets`: requests by time, as many as BUCKETS and one for what is slower; `seconds`: of all together.

    Not a dataclass: to import these takes a megabyte.
    """

    __slots__ = ("buckets", "seconds")

    def __init__(self, buckets: Sequence[int] = (0,) * (len(BUCKETS) + 1), seconds: float = 0.0) -> None:
        self.buckets = list(buckets)
        self.seconds = seconds

    def add(self, seconds: float) -> None:
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


def merge(into: dict[Key, Count], other: Mapping[Key, Count]) -> None:
    for key, count in other.items():
        mine = into.setdefault(key, Count())
        mine.buckets = [a + b for a, b in zip(mine.buckets, count.buckets, strict=True)]
        mine.seconds += count.seconds
