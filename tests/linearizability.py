"""Whether what clients saw of a key could have happened one operation after the other.

Wing and Gong's search ("Testing and verifying concurrent objects", 1993) with Lowe's memory of what was tried ("Testing
for linearizability", 2017): an operation may be the next one if it began before every operation that is left had ended;
which of them it was is tried, and a set of operations that led to the same value is not tried again.

An operation whose answer was lost may have been at any time after it began, or never. So may the end of a lease, from
the earliest moment on at which it can have run out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ABSENT = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """`step`: the value before it to the value after it, or None where it cannot have ended so with that value. `ended`
    is infinite, and `certain` false, for what may never have been."""

    what: str
    began: float
    ended: float
    step: Callable[[str], str | None]
    certain: bool = True

    def __str__(self) -> str:
        return f"[{self.began:.4f}, {self.ended:.4f}] {self.what}"


def read(began: float, ended: float, seen: str) -> Operation:
    return Operation(f"read {seen!r}", began, ended, lambda value: value if value == seen else None)


def swap(began: float, ended: float, old: str, new: str, done: bool | None) -> Operation:
    """From `old` to `new`; ABSENT for what is not there. `done`: None where the answer was lost."""
    what = f"swap {old!r} {new!r}: {done}"
    if done is None:
        return Operation(what, began, math.inf, lambda value: new if value == old else value, certain=False)
    if done:
        return Operation(what, began, ended, lambda value: new if value == old else None)
    return Operation(what, began, ended, lambda value: value if value != old else None)


def expiry(earliest: float, value: str) -> Operation:
    """What was written under a lease may go."""
    what = f"the lease of {value!r} ends"
    return Operation(what, earliest, math.inf, lambda now: ABSENT if now == value else now, certain=False)


def is_linearizable(history: Sequence[Operation], first: str = ABSENT) -> bool:
    """Of one key."""
    operations = sorted(history, key=lambda operation: operation.began)
    all_certain = sum(1 << number for number, operation in enumerate(operations) if operation.certain)
    seen: set[tuple[int, str]] = set()
    open_ends: list[tuple[int, str]] = [(0, first)]
    while open_ends:
        done, value = open_ends.pop()
        if done & all_certain == all_certain:
            return True
        limit = math.inf
        for number, operation in enumerate(operations):
            if operation.began > limit:
                break
            if done >> number & 1:
                continue
            limit = min(limit, operation.ended)
            after = operation.step(value)
            if after is None or (not operation.certain and after == value):
                continue
            key = (done | 1 << number, after)
            if key not in seen:
                seen.add(key)
                open_ends.append(key)
    return False
