"""What a stream of the receiver does with a message: reads its body, decodes, verifies, has it written."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog
from typing_extensions import Buffer

from dwcp.errors import DwcpError, IntegrityError, ProtocolError
from dwcp.hde import codecs
from dwcp.hde.hashes import MAX_LEAVES, Hash
from dwcp.hde.standalone import MAX_CONTENT
from dwcp.transfer.channel import BodyError, Channel
from dwcp.transfer.counters import Tally
from dwcp.transfer.dictionaries import Taken
from dwcp.transfer.encoding import decode_leaf, decode_segment
from dwcp.transfer.incoming import Incoming
from dwcp.transfer.pool import BufferPool
from dwcp.transfer.segments import CODERS
from dwcp.transfer.work import MAX_RESENDS, PACK_BYTES
from dwcp.transfer.writing import Writer
from dwcp.wire import messages as m
from dwcp.wire.frames import Prefix
from dwcp.wire.messages import indexes_of, runs_of
from dwcp.wire.paths import display

log = structlog.get_logger()


class Arrivals:
    """Of one receiver; all its streams use it at once."""

    def __init__(
        self,
        control: Channel,
        writer: Writer,
        dictionaries: Taken | None,
        *,
        hash_: Hash,
        pool: BufferPool,
        tally: Tally,
        file: Callable[[int], Incoming | None],
        arrived: Callable[[Incoming, int, bytes], None],
        small_is_written: Callable[[Incoming], None],
        whole: Callable[[Incoming], None],
        fail: Callable[[Incoming, DwcpError], None],
    ) -> None:
        """`file` gives a file that was asked for, None for one that is settled. Told are `arrived` of each leaf and its
        digest, `small_is_written` of each file that came in a pack, `whole` when a file may be; `fail` when it cannot
        be received."""
        self._control = control
        self._writer = writer
        self._dictionaries = dictionaries
        self._hash = hash_
        self._pool = pool
        self._tally = tally
        self._file = file
        self._arrived = arrived
        self._small_is_written = small_is_written
        self._whole = whole
        self._fail = fail
        self._decoding = threading.BoundedSemaphore(CODERS)

    def take(self, message: m.Message, prefix: Prefix, channel: Channel) -> None:
        """Raises ProtocolError, UnreachableError or TimeoutExpired when the stream is not to be listened to any more,
        OSError when nothing can be written."""
        with self._pool.buffer(max(1, prefix.body_size)) as buffer:
            body = buffer[: prefix.body_size]
            match message:
                case m.Block():
                    try:
                        channel.receive_body(prefix, body)
                        self._block(message, prefix, body)
                    except (BodyError, IntegrityError) as error:
                        self._ask_again(message.file, [message.leaf], error)
                case m.Segment():
                    try:
                        channel.receive_body(prefix, body)
                        self._segment(message, body)
                    except BodyError as error:
                        self._ask_again(message.file, indexes_of(message.leaves, MAX_LEAVES), error)
                case m.Pack():
                    try:
                        channel.receive_body(prefix, body)
                        self._pack(message, body)
                    except (BodyError, IntegrityError) as error:
                        for packed in message.files:
                            self._ask_again(packed.file, [0], error)
                case m.Ping():
                    channel.receive_body(prefix, body)
                case _:
                    raise ProtocolError(f"the peer sent a {type(message).__name__} on a data connection")

    def _ask_again(self, number: int, leaves: list[int], error: DwcpError) -> None:
        file = self._file(number)
        if file is None:
            return
        with file.lock:
            file.damaged += 1
            too_often = file.damaged > MAX_RESENDS
        if too_often:
            self._fail(file, IntegrityError(f"{display(file.entry.path)} arrives damaged again and again: {error}"))
            return
        self._tally.add("frames_corrupt")
        log.warning(
            "a damaged block is asked for again", path=display(file.entry.path), leaves=leaves, reason=str(error)
        )
        self._control.send(m.Resend(file=number, leaves=runs_of(leaves), reason=str(error)))

    def _unpacked(self, pack: m.Pack, body: memoryview) -> Buffer:
        if pack.dictionary is None:
            return codecs.decode(pack.codec, body, pack.size)
        if self._dictionaries is None:
            raise ProtocolError("the peer uses a dictionary, and has not been offered that")
        return self._dictionaries.decode(pack.dictionary, body, pack.size)

    def _block(self, block: m.Block, prefix: Prefix, body: memoryview) -> None:
        file = self._file(block.file)
        if file is None:
            return
        with file.held() as alive:
            if not alive or file.completing:
                return
            file.expect(block.leaf, block.size)
            try:
                content, digest = decode_leaf(
                    block, body, prefix.body_hash, self._hash, lambda: self._writer.baseline(file)
                )
                self._writer.write(file, block.leaf, content, zero=block.codec == codecs.ZERO.id and not block.ops)
                self._arrived(file, block.leaf, digest)
            except (IntegrityError, ProtocolError):
                raise
            except DwcpError as error:
                self._fail(file, error)
                return
        self._whole(file)

    def _segment(self, segment: m.Segment, body: memoryview) -> None:
        file = self._file(segment.file)
        if file is None:
            return
        with file.held() as alive:
            if not alive or file.completing:
                return
            leaves = indexes_of(segment.leaves, file.leaves)
            sizes = [file.leaf_bytes(leaf) for leaf in leaves]
            if len(segment.digests) != len(leaves) * file.hash_size or segment.size != sum(sizes):
                raise ProtocolError(f"a segment of file {file.id} does not fit its leaves")
            if segment.size > MAX_CONTENT and len(leaves) > 1:
                raise ProtocolError("the peer sends more leaves in one segment than are allowed")
            damaged: list[int] = []
            try:
                with self._decoding:
                    content = decode_segment(body, segment.size, self._writer.baseline(file))
                at = 0
                for place, (leaf, size) in enumerate(zip(leaves, sizes, strict=True)):
                    piece = content[at : at + size]
                    at += size
                    digest = segment.digests[place * file.hash_size : (place + 1) * file.hash_size]
                    if self._hash.digest(piece) == digest:
                        self._writer.write(file, leaf, piece, zero=False)
                        self._arrived(file, leaf, digest)
                    else:
                        damaged.append(leaf)
            except ProtocolError:
                raise
            except DwcpError as error:
                self._fail(file, error)
                return
        if damaged:
            self._ask_again(file.id, damaged, IntegrityError("a segment and the old version make something else"))
        self._whole(file)

    def _pack(self, pack: m.Pack, body: memoryview) -> None:
        if pack.size != sum(packed.size for packed in pack.files) or pack.size > PACK_BYTES:
            raise ProtocolError("a pack does not add up")
        content = memoryview(self._unpacked(pack, body))
        at = 0
        for packed in pack.files:
            piece = content[at : at + packed.size]
            at += packed.size
            file = self._file(packed.file)
            if file is None or file.completing:
                continue
            if packed.size != file.size:
                raise ProtocolError(f"file {file.id} is packed with another size than was announced")
            if self._hash.digest(piece) != packed.digest:
                self._ask_again(packed.file, [0], IntegrityError("its content does not match its digest"))
                continue
            with file.lock:
                if file.completing:
                    continue
                file.completing = True
            self._writer.write_small(file, piece)
            self._small_is_written(file)
