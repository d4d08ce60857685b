"""What goes on the wire of a leaf or a pack, and back: codecs, deltas and digests put together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from typing_extensions import Buffer

from dwcp.errors import IntegrityError, ProtocolError
from dwcp.hde import codecs, delta, standalone
from dwcp.hde.adaptive import Adaptive
from dwcp.hde.content import Content
from dwcp.hde.dictionary import MAX_CONTENT, Dictionary
from dwcp.hde.hashes import XXH3, Hash
from dwcp.hde.index import PAGE, average_chunk
from dwcp.hde.segment import unpack_segment
from dwcp.transfer.channel import Channel
from dwcp.transfer.settings import Compression
from dwcp.transfer.source import Reader
from dwcp.transfer.work import Outgoing
from dwcp.wire import messages as m


class BlockEncoder:
    """Of one transfer. Any thread may use it."""

    def __init__(self, compression: Compression, hash_: Hash) -> None:
        self._compression = compression
        self._hash = hash_
        self._adaptive = Adaptive(compression.threshold, enabled=compression.adaptive)
        self._lock = threading.Lock()

    def send_leaf(
        self, channel: Channel, file: Outgoing, leaf: int, view: memoryview, digest: bytes, ops: list[delta.Op]
    ) -> None:
        """`view`: the leaf; `ops`: what `delta_ops` made of it. Raises TemporaryError when the connection breaks."""
        literal: Buffer = delta.literals(view, ops) if ops else view
        size = memoryview(literal).nbytes
        began = time.monotonic()
        codec, body, tried = self._encode(literal)
        plain = codec is codecs.NONE and not ops and self._hash is XXH3
        message = m.Block(
            file=file.id,
            leaf=leaf,
            size=len(view),
            codec=codec.id,
            # the frame's own hash says it where the body is the leaf as it is
            digest=b"" if plain else digest,
            ops=ops,
            literal=size,
        )
        channel.send(message, body, body_hash=digest if plain else None)
        self._observe(codec, tried, size, began)

    def send_pack(
        self, channel: Channel, content: memoryview, files: list[m.Packed], dictionary: Dictionary | None
    ) -> None:
        """`content`: the files, end to end; `dictionary`: what the receiver holds. Raises TemporaryError when the
        connection breaks."""
        began = time.monotonic()
        if len(content) > MAX_CONTENT:
            dictionary = None
        codec, body, tried = self._encode(content, dictionary)
        used = dictionary.id if dictionary is not None and codec is not codecs.NONE else None
        channel.send(m.Pack(codec=codec.id, size=len(content), files=files, dictionary=used), body)
        self._observe(codec, tried, len(content), began)

    def _encode(self, content: Buffer, dictionary: Dictionary | None = None) -> tuple[codecs.Codec, Buffer, bool]:
        """(codec, body, whether compression was tried)."""
        chosen = self._compression.codec
        with self._lock:
            try_it = chosen is not codecs.NONE and self._adaptive.choose()
        if not try_it:
            return codecs.NONE, content, False
        level, ratio = self._compression.level, self._compression.min_ratio
        if dictionary is not None:
            body = dictionary.encode(content, level)
            return (
                (chosen, body, True)
                if len(body) * ratio <= memoryview(content).nbytes
                else (codecs.NONE, content, True)
            )
        codec, packed = codecs.encode(chosen, level, content, ratio)
        return codec, packed, True

    def _observe(self, codec: codecs.Codec, tried: bool, size: int, began: float) -> None:
        if size:
            with self._lock:
                self._adaptive.observe(codec is not codecs.NONE, tried, size, time.monotonic() - began)


def delta_ops(file: Outgoing, leaf: int, reader: Reader, view: memoryview) -> list[delta.Op]:
    """The leaf as copies from the receiver's baseline and literals; none where that saves nothing."""
    index = file.index
    if index is None:
        return []
    pages_a_leaf = file.leaf_size // PAGE
    first_page = file.segment.index(leaf) * pages_a_leaf
    ops = delta.in_place(view, leaf * file.leaf_size, index.pages, first_page)
    if index.chunks and 2 * delta.literal_size(ops) > len(view):
        offset = leaf * file.leaf_size
        margin = 4 * average_chunk(file.base_size)
        start = max(0, offset - margin)
        window = memoryview(bytearray(min(file.size, offset + len(view) + margin) - start))
        got = reader.read_into(start, window)
        ops = delta.moved(window[:got], start, offset, len(view), file.base_size, index)
    return ops if delta.literal_size(ops) < len(view) and len(ops) <= m.MAX_OPS else []


@dataclass(frozen=True, slots=True)
class Baseline:
    """`read_into` fills a buffer from an offset, and gives the number of bytes that it found there."""

    size: int
    read_into: Callable[[int, memoryview], int]


def decode_leaf(
    block: m.Block, body: memoryview, body_hash: bytes, hash_: Hash, baseline: Callable[[], Baseline]
) -> tuple[memoryview, bytes]:
    """The leaf's content and digest. `body_hash`: XXH3 of the body, which the frame has proved.

    Raises IntegrityError when content and digest don't belong together, ProtocolError for what no sender sends.
    """
    literal_size = block.literal if block.ops else block.size
    if literal_size > block.size:
        raise ProtocolError("a delta brings more literal bytes than its leaf has")
    literal = memoryview(codecs.decode(block.codec, body, literal_size))
    if not block.digest:
        if block.codec != codecs.NONE.id or block.ops or hash_ is not XXH3:
            raise ProtocolError("a block without a digest must be plain")
        return literal, body_hash
    content = literal
    if block.ops:
        base = baseline()
        content = memoryview(bytearray(block.size))

        def read(offset: int, view: memoryview) -> int:
            # where no file can end, the kernel would call it an error of the disk
            return base.read_into(offset, view) if offset + len(view) <= base.size else 0

        delta.assemble(block.ops, literal, content, read)
    if hash_.digest(content) != block.digest:
        raise IntegrityError(f"leaf {block.leaf} does not match its digest")
    return content, block.digest


def decode_segment(body: memoryview, size: int, baseline: Baseline) -> memoryview:
    """The leaves of a SEGMENT, end to end, their digests still to be compared. Raises ProtocolError or StorageError."""

    def read(offset: int, length: int) -> Buffer:
        piece = memoryview(bytearray(length))
        return piece[: baseline.read_into(offset, piece)]

    base = Content(baseline.size, read)
    return standalone.decode(unpack_segment(body, baseline.size, size), base)
