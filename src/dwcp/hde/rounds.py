"""Deltas for programs that hold state in memory: the same object again and again, each time against the time before.

    encoder, decoder = Encoder(), Decoder(max_size=2**32)
    frame = encoder.encode("vm1", memory, now, dirty=[(0x4000, 4096)])
    copy = decoder.decode(frame)

Frames of a key must reach the decoder in order, each once. When one is lost, or the decoder says NotFoundError because
it never had what a frame stands on, `Encoder.forget` makes the next one full.

Each end keeps one copy of each object. Not for several threads at once.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from typing_extensions import Buffer

from dwcp.errors import NotFoundError, ProtocolError, UsageError
from dwcp.hde.content import EMPTY, from_buffer
from dwcp.hde.decoder import DeltaDecoder
from dwcp.hde.encoder import DeltaEncoder, Statistics
from dwcp.hde.hashes import XXH3, Hash, leaf_size

MAX_KEY = 200
"""Bytes of a key in UTF-8: with the version it has to fit the name of a base."""
_HEAD = struct.Struct(">4sHQQ")
_MAGIC = b"DWCF"


@dataclass(frozen=True, slots=True)
class Frame:
    """One version of one object. `base` is the version that it stands on, 0 for a full frame; versions begin at 1."""

    key: str
    version: int
    base: int
    delta: bytes
    statistics: Statistics | None = None
    """At the encoder only."""

    @property
    def full(self) -> bool:
        return self.base == 0

    def pack(self) -> bytes:
        """To send or to store. Nothing says where it ends: that is for what carries it."""
        key = self.key.encode()
        return _HEAD.pack(_MAGIC, len(key), self.version, self.base) + key + self.delta

    @classmethod
    def unpack(cls, data: Buffer) -> Frame:
        """Raises ProtocolError."""
        view = memoryview(data).cast("B")
        if len(view) < _HEAD.size:
            raise ProtocolError("a frame is cut short")
        magic, length, version, base = _HEAD.unpack_from(view)
        if magic != _MAGIC or length > MAX_KEY or len(view) < _HEAD.size + length:
            raise ProtocolError("this is no frame")
        if base >= version:
            raise ProtocolError(f"a frame of version {version} stands on version {base}, which is not before it")
        try:
            key = str(view[_HEAD.size : _HEAD.size + length], "utf-8")
        except UnicodeDecodeError as error:
            raise ProtocolError("a frame's key is not UTF-8") from error
        return cls(key, version, base, bytes(view[_HEAD.size + length :]))


@dataclass(slots=True)
class _Kept:
    data: bytearray
    leaves: bytes
    version: int
    chain: int
    """Deltas since the last full frame."""
    full_at: float


class Encoder:
    """`max_chain`, `baseline_interval` (seconds): a full frame is due after so many deltas, or so long after the last
    one; None for never. `algorithm` and `budget` as in `encoder.DeltaEncoder`."""

    def __init__(
        self,
        *,
        hash_: Hash = XXH3,
        algorithm: str = "auto",
        budget: float | None = None,
        max_chain: int | None = 10,
        baseline_interval: float | None = 300.0,
    ) -> None:
        self._hash = hash_
        self._algorithm = algorithm
        self._budget = budget
        self._max_chain = max_chain
        self._interval = baseline_interval
        self._kept: dict[str, _Kept] = {}
        self._versions: dict[str, int] = {}

    def encode(self, key: str, buffer: Buffer, now: float, dirty: Iterable[tuple[int, int]] | None = None) -> Frame:
        """The frame that brings the decoder to `buffer`, which is read before this returns and not kept.

        `now`: seconds of any clock that does not go back. `dirty`: (offset, size) of all that may differ from the last
        call for this key; leaves of 1 MiB which none of them touches are neither compared nor hashed. It is not looked
        at for a full frame. Raises UsageError for an algorithm, key or range that cannot be meant.
        """
        if len(key.encode()) > MAX_KEY:
            raise UsageError(f"a key has more than {MAX_KEY} bytes")
        new = from_buffer(buffer)
        kept = self._kept.get(key)
        if kept is not None and self._is_due(kept, now):
            kept = None
        base = 0 if kept is None else kept.version
        version = self._versions.get(key, 0) + 1
        delta = DeltaEncoder(
            EMPTY if kept is None else from_buffer(kept.data),
            new,
            base_id=_base_id(key, base),
            hash_=self._hash,
            algorithm=self._algorithm,
            budget=self._budget,
            base_leaves=b"" if kept is None else kept.leaves,
            dirty=None if kept is None else dirty,
        )
        body = b"".join(delta.run())
        self._versions[key] = version
        if kept is None:
            self._kept[key] = _Kept(bytearray(memoryview(buffer).cast("B")), delta.leaves, version, 0, now)
        else:
            _update(kept, memoryview(buffer).cast("B"), delta.leaves, self._hash)
            kept.version = version
            kept.chain += 1
        return Frame(key, version, base, body, delta.statistics)

    def _is_due(self, kept: _Kept, now: float) -> bool:
        if self._max_chain is not None and kept.chain >= self._max_chain:
            return True
        return self._interval is not None and now - kept.full_at >= self._interval

    def forget(self, key: str) -> None:
        """The next frame of this key is full."""
        self._kept.pop(key, None)


class Decoder:
    """`max_size`: bytes of all objects together; a frame that would make more is refused before it is decoded."""

    def __init__(self, *, max_size: int) -> None:
        self._max_size = max_size
        self._kept: dict[str, _Kept] = {}

    def decode(self, frame: Frame) -> memoryview:
        """The object, read-only; it stays as it is when later frames come.

        Raises NotFoundError when the version that the frame stands on is not the one that is here, ProtocolError and
        IntegrityError as `decoder.DeltaDecoder.run`. What was here stays in any of these cases.
        """
        kept = None if frame.full else self._kept.get(frame.key)
        if not frame.full and (kept is None or kept.version != frame.base):
            here = "none is here" if kept is None else f"version {kept.version} is here"
            raise NotFoundError(
                f"version {frame.version} of {frame.key!r} stands on version {frame.base}, and {here}; "
                "ask for a full frame (Encoder.forget)"
            )
        delta = DeltaDecoder(io.BytesIO(frame.delta).read)
        if delta.header.base_id != _base_id(frame.key, frame.base):
            raise ProtocolError(f"the delta of a frame of {frame.key!r} is one of another object or version")
        others = sum(len(other.data) for key, other in self._kept.items() if key != frame.key)
        base, leaves = (EMPTY, b"") if kept is None else (from_buffer(kept.data), kept.leaves)
        made = bytearray()
        for size, data in delta.run(base, max_size=self._max_size - others, base_leaves=leaves):
            made += bytes(size) if data is None else data
        self._kept[frame.key] = _Kept(made, delta.leaves, frame.version, 0, 0.0)
        return memoryview(made).toreadonly()

    def forget(self, key: str) -> None:
        """Frees an object that will not be needed any more."""
        self._kept.pop(key, None)


def _base_id(key: str, version: int) -> bytes:
    return f"{key}@{version}".encode()


def _update(kept: _Kept, buffer: memoryview, leaves: bytes, hash_: Hash) -> None:
    """Makes the copy what `buffer` is, where the leaves say that it differs."""
    step = leaf_size(len(buffer))
    if len(kept.data) != len(buffer):
        kept.data = bytearray(buffer)
    else:
        for number, offset in enumerate(range(0, len(buffer), step)):
            at = number * hash_.size
            if kept.leaves[at : at + hash_.size] != leaves[at : at + hash_.size]:
                kept.data[offset : offset + step] = buffer[offset : offset + step]
    kept.leaves = leaves
