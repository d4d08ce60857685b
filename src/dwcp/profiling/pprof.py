"""Profiles as `go tool pprof` and its relatives read them: gzipped messages of pprof's profile.proto.

The numbers are the fields of that definition (https://github.com/google/pprof/blob/main/proto/profile.proto). Of
Protocol Buffers it takes varints and length-delimited fields only, which is less than a runtime for them would cost.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

MAX_UNSIGNED = 2**64


class Frame(NamedTuple):
    """`line` is the one that runs, `first_line` where the function begins; 0 where there is none."""

    function: str
    file: str = ""
    line: int = 0
    first_line: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """`stack` innermost first; one of `values` for each of the profile's kinds; `labels` to filter by."""

    stack: tuple[Frame, ...]
    values: tuple[int, ...]
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value counts, and its unit by pprof's names: `count`, `bytes`, `nanoseconds`."""

    name: str
    unit: str


@dataclass(frozen=True, slots=True)
class Profile:
    """`default`: name of the kind that a reader shows first. `taken_at`: nanoseconds since the epoch."""

    kinds: Sequence[Kind]
    default: str
    samples: Iterable[Sample]
    taken_at: int
    duration: int = 0
    """Nanoseconds."""
    period_kind: Kind | None = None
    period: int = 0
    comments: Sequence[str] = field(default=())


def encode(profile: Profile) -> bytes:
    """The file, gzipped."""
    strings = _Strings()
    places = _Places(strings)
    out = bytearray()
    for kind in profile.kinds:
        out += _nested(1, _kind(kind, strings))
    for sample in profile.samples:
        message = _nested(1, b"".join(map(places.location, sample.stack))) + _packed(2, sample.values)
        for key, value in sample.labels:
            message += _nested(3, _number(1, strings.index(key)) + _number(2, strings.index(value)))
        out += _nested(2, message)
    out += places.encoded
    out += _number(9, profile.taken_at) + _number(10, profile.duration)
    if profile.period_kind is not None:
        out += _nested(11, _kind(profile.period_kind, strings)) + _number(12, profile.period)
    out += _packed(13, [strings.index(comment) for comment in profile.comments])
    out += _number(14, strings.index(profile.default))
    # last, because only now all are known; a reader takes fields in any order
    for text in strings.table:
        out += _nested(6, text.encode(errors="backslashreplace"))
    return gzip.compress(out, compresslevel=6, mtime=0)


class _Strings:
    """The string table; its first entry has to be the empty string."""

    def __init__(self) -> None:
        self.table: dict[str, int] = {"": 0}

    def index(self, text: str) -> int:
        return self.table.setdefault(text, len(self.table))


class _Places:
    """Locations and the functions that they are in, each once; numbered from 1, because 0 means none."""

    def __init__(self, strings: _Strings) -> None:
        self.encoded = bytearray()
        self._strings = strings
        self._functions: dict[tuple[str, str, int], int] = {}
        self._locations: dict[Frame, bytes] = {}

    def location(self, frame: Frame) -> bytes:
        """Its number, as a varint: most frames are in many stacks."""
        number = self._locations.get(frame)
        if number is None:
            number = self._locations[frame] = varint(len(self._locations) + 1)
            line = _number(1, self._function(frame)) + _number(2, frame.line)
            self.encoded += _nested(4, varint(1 << 3) + number + _nested(4, line))
        return number

    def _function(self, frame: Frame) -> int:
        key = (frame.function, frame.file, frame.first_line)
        number = self._functions.get(key)
        if number is None:
            number = self._functions[key] = len(self._functions) + 1
            name, file = self._strings.index(frame.function), self._strings.index(frame.file)
            message = _number(1, number) + _number(2, name) + _number(3, name) + _number(4, file)
            self.encoded += _nested(5, message + _number(5, frame.first_line))
        return number


def _kind(kind: Kind, strings: _Strings) -> bytes:
    return _number(1, strings.index(kind.name)) + _number(2, strings.index(kind.unit))


def varint(value: int) -> bytes:
    """Base 128, least significant group first. Negative numbers as their two's complement in 64 bits."""
    value %= MAX_UNSIGNED
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(tag: int, value: int) -> bytes:
    # zero is what an absent field means
    return varint(tag << 3) + varint(value) if value else b""


def _nested(tag: int, content: bytes | bytearray) -> bytes:
    return varint(tag << 3 | 2) + varint(len(content)) + content


def _packed(tag: int, values: Iterable[int]) -> bytes:
    content = b"".join(map(varint, values))
    return _nested(tag, content) if content else b""
