"""The sending role: announces the tree, learns what the receiver needs, and lets the streams carry it.

Threads: one scans, one for each stream takes tasks from `Work`, and the caller's feeds what comes on the control
connection to `handle`. The two meet in `Outgoing`, each under its own lock; no lock is held while anything is sent on a
data connection.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import structlog

from dwcp.errors import (
    DwcpError,
    IntegrityError,
    Interrupted,
    ProtocolError,
    TemporaryError,
    UnreachableError,
    fault,
    from_code,
)
from dwcp.hde import codecs
from dwcp.hde.hashes import HASHES, MIN_LEAF, zero_digest
from dwcp.hde.index import MAX_CHUNKED, MAX_INDEXED, unpack_index
from dwcp.links.ucx import UcxLink
from dwcp.store.baselines import KeptCopies
from dwcp.transfer.channel import Channel
from dwcp.transfer.counters import Tally
from dwcp.transfer.encoding import BlockEncoder, delta_ops
from dwcp.transfer.engine import Engine
from dwcp.transfer.keeper import Keeper
from dwcp.transfer.pool import BufferPool
from dwcp.transfer.segments import Coded, Coder, segments
from dwcp.transfer.settings import Compression
from dwcp.transfer.source import Reader, Source, StreamReader
from dwcp.transfer.work import (
    MAX_BLOCK_BODY,
    MAX_RESENDS,
    MAX_UNSETTLED,
    PACK_BYTES,
    PACK_FILE,
    PACKED,
    QUEUED,
    LeafTask,
    Mode,
    Outgoing,
    PackTask,
    SegmentTask,
    Task,
    Work,
    weight,
)
from dwcp.wire import messages as m
from dwcp.wire.frames import MAX_BODY
from dwcp.wire.messages import indexes_of, runs_of
from dwcp.wire.paths import display

ENTRY_BYTES = 128 * 1024
"""Of names in one ENTRIES or LISTING: with the rest of an entry, half of what a LISTING's head may be."""

log = structlog.get_logger()


class Sender(Engine):
    """One transfer's sending end."""

    def __init__(
        self,
        source: Source,
        control: Channel,
        *,
        checksum: str,
        compression: Compression,
        least_leaf: int,
        pool: BufferPool,
        tally: Tally,
        idle_seconds: float,
        kept: KeptCopies | None = None,
    ) -> None:
        """`idle_seconds`: an idle stream says PING this often. `kept`: what was sent before, to a peer that takes
        segments."""
        super().__init__(control)
        self._source = source
        control.max_body = MAX_BODY
        self._hash = HASHES[checksum]
        self._compression = compression
        self._least_leaf = least_leaf
        self._encoder = BlockEncoder(compression, self._hash)
        self._coder = Coder(compression.delta_algorithm, idle_seconds)
        self._keeper = Keeper(kept)
        self._pool = pool
        self._tally = tally
        self._idle_seconds = idle_seconds
        self._work = Work()
        self._files: dict[int, Outgoing] = {}
        self._announced = self._unsettled = 0
        self._unanswered_bytes = 0
        self._channels: dict[int, Channel] = {}
        self._surplus = 0
        self._fruitless = 0
        self._settled_at_loss = -1
        self._scan_complete = True
        self._scan_told = False
        self._scanner = threading.Thread(target=self.guard, args=(self._scan,), name="dwcp-scan", daemon=True)

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._scanner.start()

    def close(self) -> None:
        """After it has finished: returns when nothing reads the source any more, which the caller closes."""
        if self._scanner.is_alive():
            self._scanner.join()
        self._keeper.close()

    def _ended(self) -> None:
        self._work.close()
        for file in list(self._files.values()):
            if isinstance(file.reader, StreamReader):
                file.reader.release()
        # readers are closed by the last stream that leaves: another one may be reading
        with self._condition:
            if not self._channels:
                self._close_readers()

    def _close_readers(self) -> None:
        for file in list(self._files.values()):
            with file.lock:
                self._keeper.let_go(file)
                if file.reader is not None:
                    file.reader.close()
                    file.reader = None

    @property
    def active_streams(self) -> int:
        return len(self._channels)

    def backlog(self) -> int:
        """Tasks that wait for a stream."""
        return self._work.backlog()

    def expected(self) -> int:
        """Tasks that will come if the receiver lacks all of what it has not answered for yet."""
        return -(-self._unanswered_bytes // PACK_BYTES)

    def limit_streams(self, limit: int) -> None:
        """Streams beyond `limit` end after the task that they are at."""
        with self._condition:
            self._surplus = max(0, len(self._channels) - max(1, limit))

    # -- announcing ----------------------------------------------------------------------------------------------------

    def _scan(self) -> None:
        batch: list[m.Entry] = []
        size = heft = 0

        def problem(error: DwcpError) -> None:
            self._scan_complete = False
            self._failed(str(error))

        for entry in self._source.entries(problem):
            if self.finished.is_set():
                return
            batch.append(entry)
            size += len(entry.path) + len(entry.link) + 64
            heft += weight(entry, self._least_leaf)
            if heft >= m.MAX_ENTRIES or size >= ENTRY_BYTES:
                self._announce(batch)
                batch, size, heft = [], 0, 0
        if batch:
            self._announce(batch)
        self._scan_told = True
        self._control.send(m.Scanned(count=self._announced, complete=self._scan_complete))

    def _announce(self, entries: list[m.Entry]) -> None:
        with self._condition:
            self._condition.wait_for(lambda: self.finished.is_set() or self._unsettled < MAX_UNSETTLED)
            if self.finished.is_set():
                raise self.error or Interrupted("the transfer has ended")
            first = self._announced
            for number, entry in enumerate(entries, first):
                self._files[number] = Outgoing(number, entry, self._hash.size, self._least_leaf)
            self._announced += len(entries)
            self._unanswered_bytes += sum(entry.size for entry in entries)
            self._unsettled += sum(weight(entry, self._least_leaf) for entry in entries)
            self.progress.add(
                files_total=sum(entry.type != "dir" for entry in entries),
                bytes_total=sum(entry.size for entry in entries),
            )
        plain = m.encode_entries(entries)
        self._control.send(m.Entries(first=first, count=len(entries), size=len(plain)), codecs.encode_names(plain))

    # -- what the receiver says ----------------------------------------------------------------------------------------

    def _handle(self, message: m.Message, body: bytes) -> None:
        match message:
            case m.Need():
                self._need(message, body)
            case m.BaseIndex():
                self._base_index(message, body)
            case m.Ack():
                self._ack(message)
            case m.Resend():
                self._resend(message)
            case m.Done():
                self._done(message)
            case m.Error(file=None):
                self.abort(from_code(message.code, message.message))
            case m.Error(file=number):
                self._settle_failed(self._unless_settled(number or 0), message.message)
            case m.StreamLost():
                self._stream_lost_there(message)
            case m.Streams():
                self.limit_streams(message.limit)
            case m.Finished():
                if self._files or not self._scan_told:
                    raise ProtocolError(f"the peer has finished, it says, with {len(self._files)} files not settled")
                self.progress.deleted = message.deleted
                for line in message.errors:
                    self._failed(line)
                self.verified = message.verified and not self.progress.errors
                self._finish()
            case _:
                raise ProtocolError(f"the peer sent a {type(message).__name__} to the sending end of a transfer")

    def _unless_settled(self, number: int) -> Outgoing | None:
        """None for a file that has been settled since the peer spoke of it: messages cross."""
        return self._files.get(number) if number < self._announced else self._file(number)

    def _file(self, number: int) -> Outgoing:
        file = self._files.get(number)
        if file is None:
            raise ProtocolError(f"the peer speaks of file {number}, which is not under way")
        return file

    def _asked(self, number: int) -> Outgoing:
        file = self._file(number)
        if file.asked:
            raise ProtocolError(f"the peer asked twice for file {number}")
        file.asked = True
        return file

    def _need(self, message: m.Need, body: bytes) -> None:
        for number in message.files:
            self._answered(self._file(number))
        if body:
            if len(message.files) != 1:
                raise ProtocolError("the peer sent leaf hashes for more than one file at once")
            file = self._asked(message.files[0])
            if len(body) % self._hash.size:
                raise ProtocolError("the peer sent leaf hashes of a wrong size")
            file.have = body
            file.base_size = message.base_size if self._compression.delta else 0
            self._begin(file, Mode.COMPARE)
            return
        wanted = [self._asked(number) for number in message.files]
        self._work.add_small(file for file in wanted if file.size <= PACK_FILE and file.entry.type == "file")
        for file in wanted:
            if file.size > PACK_FILE or file.entry.type == "stream":
                self._begin(file, Mode.WHOLE)

    def _answered(self, file: Outgoing) -> None:
        with self._condition:
            if not file.answered:
                file.answered = True
                self._unanswered_bytes -= file.entry.size

    def _begin(self, file: Outgoing, mode: Mode) -> None:
        if file.entry.type == "stream":
            file.listed = False
            threading.Thread(
                target=self.guard, args=(lambda: self._feed(file, mode),), name="dwcp-feed", daemon=True
            ).start()
            return
        if not file.hashes:
            file.hashes = bytearray(file.leaves * file.hash_size)
        file.pending = file.leaves
        self._work.add_leaves(file, range(file.leaves), file.leaves, mode)

    def _feed(self, file: Outgoing, mode: Mode) -> None:
        """Turns a stream into tasks as it is read."""
        reader = self._source.open(file.entry)
        if not isinstance(reader, StreamReader):
            raise ProtocolError("only a stream is fed")
        turn, count, kept = reader.take_over()
        file.reader, file.hashes = reader, reader.hashes
        for leaf in sorted(set(range(count)) - set(kept)):
            self._feed_settled(file, leaf, reader.leaf_bytes(leaf))
        for leaf in kept:
            self._feed_leaf(file, leaf, reader.leaf_bytes(leaf), mode)
        while (leaf_read := reader.next_leaf(turn)) is not None:
            self._feed_leaf(file, leaf_read, reader.leaf_bytes(leaf_read), mode)
        if not reader.is_turn(turn):
            return
        with file.lock:
            file.listed = True
            last = file.pending == 0
        if last:
            self._end_phase(file)

    def _feed_settled(self, file: Outgoing, leaf: int, size: int) -> None:
        """A leaf that an earlier session settled: the receiver must still have it, nobody else has."""
        digest = bytes(file.hashes[leaf * file.hash_size : (leaf + 1) * file.hash_size])
        if not file.receiver_has(leaf, digest):
            raise IntegrityError(
                "the receiver lost a part of the stream that it had confirmed; send it again from the start"
            )
        with file.lock:
            file.leaves = max(file.leaves, leaf + 1)
            file.size = max(file.size, leaf * MIN_LEAF + size)
            file.unchanged.append(leaf)
            file.settled_bytes += size
        self.progress.add(bytes_total=size, bytes_done=size)

    def _feed_leaf(self, file: Outgoing, leaf: int, size: int, mode: Mode) -> None:
        with file.lock:
            file.leaves = max(file.leaves, leaf + 1)
            file.size = max(file.size, leaf * MIN_LEAF + size)
            file.hashes.extend(bytes(max(0, file.leaves * file.hash_size - len(file.hashes))))
            file.pending += 1
        self.progress.add(bytes_total=size)
        self._work.add(LeafTask(file, leaf, mode))

    def _base_index(self, message: m.BaseIndex, body: bytes) -> None:
        file = self._file(message.file)
        with file.lock:
            if not file.indexing:
                raise ProtocolError(f"the peer sent an index of file {file.id} that was not asked for")
            file.indexing = False
        index = unpack_index(body, file.base_size)
        with file.lock:
            if file.index is not None:
                index = replace(index, chunks=file.index.chunks)
            file.index = index
            file.pending = len(file.segment)
        self._work.add_leaves(file, file.segment, len(file.segment), Mode.DELTA)

    def _ack(self, message: m.Ack) -> None:
        file = self._files.get(message.file)
        if file is None:
            return
        for leaf in indexes_of(message.leaves, max(file.leaves, 1)):
            with file.lock:
                under_way = file.unacked.pop(leaf, None) is not None
            if under_way:
                self._leaf_settled(file, leaf)

    def _leaf_settled(self, file: Outgoing, leaf: int) -> None:
        with file.lock:
            size = file.leaf_bytes(leaf)
            file.settled_bytes += size
            reader = file.reader
        self.progress.add(bytes_done=size)
        if reader is not None:
            reader.settled(leaf)

    def _resend(self, message: m.Resend) -> None:
        file = self._unless_settled(message.file)
        if file is None:
            return
        leaves = indexes_of(message.leaves, max(file.leaves, 1))
        file.resends += 1
        log.warning(
            "the peer asks for blocks again", path=display(file.entry.path), leaves=leaves[:8], reason=message.reason
        )
        self._tally.add("frames_corrupt", len(leaves))
        if file.resends > MAX_RESENDS:
            raise IntegrityError(
                f"{display(file.entry.path)}: {file.resends} blocks arrived damaged; the last reason: {message.reason}"
            )
        with file.lock:
            if file.renewed:
                # it may be that the copy here is not what the receiver has
                self._keeper.doubt(file)
            # anything else was never sent, has arrived in another copy, or goes again already
            asked = {PACKED if PACKED in file.unacked else leaf for leaf in leaves}
            under_way = [leaf for leaf in asked if file.unacked.get(leaf, QUEUED) != QUEUED]
            self._again(file, under_way)

    def _again(self, file: Outgoing, leaves: list[int]) -> None:
        """Queues what was sent once more. Call with the file's lock held."""
        self._tally.add("blocks_resent", len(leaves))
        for leaf in leaves:
            file.unacked[leaf] = QUEUED
            if leaf == PACKED:
                self._work.add_small([file])
            else:
                self._work.add(LeafTask(file, leaf, Mode.WHOLE, again=True))

    def _stream_lost_there(self, message: m.StreamLost) -> None:
        """Raises IntegrityError when the peer loses one stream after the other and nothing arrives in between: what we
        send is then what breaks them."""
        log.warning("the peer lost a stream", stream=message.stream, reason=message.reason)
        self._tally.add("frames_corrupt", "corrupted" in message.reason)
        settled = self.progress.bytes_done
        self._fruitless = self._fruitless + 1 if settled == self._settled_at_loss else 0
        self._settled_at_loss = settled
        if self._fruitless > MAX_RESENDS:
            raise IntegrityError(
                f"the peer lost {self._fruitless} streams and nothing arrived in between; the last: {message.reason}"
            )
        self.stream_lost(message.stream)

    def _done(self, message: m.Done) -> None:
        limit = self._announced
        for number in indexes_of(message.files, limit):
            self._settle(number, unchanged=False)
        for number in indexes_of(message.unchanged, limit):
            self._settle(number, unchanged=True)

    def _settle(self, number: int, *, unchanged: bool) -> None:
        file = self._unless_settled(number)
        if file is None:
            return
        is_file = file.entry.type != "dir"
        self._tally.add("files_sent", is_file and not unchanged)
        self._forget(file, arrived=True)
        self.progress.add(
            files_done=int(is_file), bytes_done=file.size - file.settled_bytes, unchanged=int(unchanged and is_file)
        )

    def _settle_failed(self, file: Outgoing | None, reason: str) -> None:
        if file is None:
            return
        self._failed(reason)
        self._forget(file)

    def _forget(self, file: Outgoing, *, arrived: bool = False) -> None:
        self._answered(file)
        with self._condition:
            if self._files.pop(file.id, None) is not None:
                self._unsettled -= weight(file.entry, self._least_leaf)
            self._condition.notify_all()
        with file.lock:
            file.forgotten = True
            if arrived:
                self._keeper.settle(file)
            else:
                self._keeper.let_go(file)
            reader, file.reader = file.reader, None
        if reader is not None:
            reader.close()

    def _failed(self, line: str) -> None:
        log.warning("a file could not be sent", reason=line)
        self.progress.failed(line)

    # -- the streams ---------------------------------------------------------------------------------------------------

    def run_stream(self, number: int, channel: Channel, confirm: Callable[[], None] | None = None) -> None:
        """Carries tasks over one data connection until the transfer ends or the connection breaks.

        `confirm` waits until the peer has taken the connection for what it is; the first task does not wait for it.
        Raises UnreachableError or TimeoutExpired when it breaks; what it carried goes again on another one.
        """
        with self._condition:
            self._channels[number] = channel
        channel.link.limit_queue(self._least_leaf // 2)
        try:
            while not self._is_surplus(channel):
                task = self._work.next(self._idle_seconds)
                if task is None:
                    if self._work.closed:
                        break
                    channel.send(m.Ping())
                    continue
                if number not in self._channels:
                    self._work.put_back(task)
                    raise UnreachableError("the peer has given this stream up")
                self._perform(task, number, channel)
                if confirm is not None:
                    confirm()
                    confirm = None
            channel.send(m.Bye())
        except DwcpError:
            raise
        except Exception as error:  # what the stream carried would never go again
            log.exception("a stream failed", stream=number)
            self.tell_and_abort(fault(error))
        finally:
            with self._condition:
                self._channels.pop(number, None)
                if self.finished.is_set() and not self._channels:
                    self._close_readers()

    def _is_surplus(self, channel: Channel) -> bool:
        with self._condition:
            if not self._surplus:
                return False
            others = [other.link for other in self._channels.values() if other is not channel]
            if isinstance(channel.link, UcxLink) and not all(isinstance(link, UcxLink) for link in others):
                # RDMA has come back: those on TCP go first
                return False
            self._surplus -= 1
            return True

    def stream_lost(self, number: int) -> None:
        """Gives the stream up, and queues again what it carried and the receiver has not acknowledged."""
        with self._condition:
            channel = self._channels.pop(number, None)
        if channel is not None:
            # its thread may wait for the peer, which does not listen there any more
            channel.link.shutdown()
        for file in list(self._files.values()):
            with file.lock:
                self._again(file, [leaf for leaf, stream in file.unacked.items() if stream == number])

    def _perform(self, task: Task, stream: int, channel: Channel) -> None:
        if isinstance(task, PackTask):
            self._send_pack(task.files, stream, channel)
            return
        file = task.file
        if file.id not in self._files:
            return
        leaves = task.leaves if isinstance(task, SegmentTask) else [task.leaf]
        try:
            with self._pool.buffer(sum(map(file.leaf_bytes, leaves))) as view:
                if isinstance(task, SegmentTask):
                    self._segment(task, view, stream, channel)
                else:
                    self._leaf(task, view, stream, channel)
        except TemporaryError:
            # what is under way on this stream goes again when the stream is found lost; the rest was not begun
            if leaves[-1] in file.unacked:
                self._task_done(task)
            else:
                self._work.put_back(task)
            raise
        except DwcpError as error:
            self._give_up(file, error)
            return
        self._task_done(task)

    def _leaf(self, task: LeafTask, view: memoryview, stream: int, channel: Channel) -> None:
        file, leaf = task.file, task.leaf
        if task.again and leaf not in file.unacked:
            # it has arrived after all: the acknowledgement was on its way when the stream was lost
            return
        reader = self._reader(file)
        offset = leaf * file.leaf_size
        if reader.is_hole(offset, len(view)):
            digest = zero_digest(self._hash.name, len(view))
            view_is_zero = True
        else:
            if reader.read_into(offset, view) != len(view):
                if task.again and leaf not in file.unacked:
                    # another copy of it has arrived
                    return
                raise IntegrityError(f"{display(file.entry.path)} was cut short while it was read; send it again")
            digest = self._hash.digest(view)
            view_is_zero = digest == zero_digest(self._hash.name, len(view))
        written = file.written
        if written is not None and not view_is_zero:
            written.write(offset, view)
        if task.mode is Mode.COMPARE and not task.again:
            if file.receiver_has(leaf, digest):
                self._leaf_unchanged(file, leaf, digest)
                return
            self._check_kept(file, leaf, len(view))
            if file.base_size and not view_is_zero:
                with file.lock:
                    file.changed.append(leaf)
                return
        with file.lock:
            file.set_hash(leaf, digest)
            file.unacked[leaf] = stream
        if view_is_zero:
            channel.send(m.Block(file=file.id, leaf=leaf, size=len(view), codec=codecs.ZERO.id, digest=digest))
            return
        ops = delta_ops(file, leaf, reader, view) if task.mode is Mode.DELTA else []
        self._encoder.send_leaf(channel, file, leaf, view, digest, ops)

    def _check_kept(self, file: Outgoing, leaf: int, size: int) -> None:
        """A leaf has changed: where a copy of its old version is here, it has to be the receiver's old version."""
        with file.lock:
            kept = file.kept
            file.renewed.append(leaf)
        digest = file.have[leaf * file.hash_size : (leaf + 1) * file.hash_size]
        if kept is not None and any(digest) and not kept.agrees(leaf * file.leaf_size, size, digest, self._hash):
            with file.lock:
                self._keeper.doubt(file)

    def _segment(self, task: SegmentTask, view: memoryview, stream: int, channel: Channel) -> None:
        """Some changed leaves, as what they lack of the old version, of which a copy is here."""
        file = task.file
        pieces: list[memoryview] = []
        at = 0
        for leaf in task.leaves:
            pieces.append(view[at : at + file.leaf_bytes(leaf)])
            at += len(pieces[-1])
        coded = self._coded(file, task.leaves, pieces, channel)
        if coded is None:
            for leaf, piece in zip(task.leaves, pieces, strict=True):
                self._leaf(LeafTask(file, leaf, Mode.WHOLE), piece, stream, channel)
            return
        digests = [self._hash.digest(piece) for piece in pieces]
        with file.lock:
            for leaf, digest in zip(task.leaves, digests, strict=True):
                file.set_hash(leaf, digest)
                file.unacked[leaf] = stream
        message = m.Segment(file=file.id, leaves=runs_of(task.leaves), size=at, digests=b"".join(digests))
        self._coder.timed(coded.literal_size, lambda: channel.send(message, coded.body))

    def _coded(self, file: Outgoing, leaves: list[int], pieces: list[memoryview], channel: Channel) -> Coded | None:
        """Reads the leaves. None where there is nothing to code them with any more, or a frame does not hold it."""
        kept, reader = file.kept, self._reader(file)
        if kept is None:
            return None
        content = []
        for leaf, piece in zip(leaves, pieces, strict=True):
            if reader.read_into(leaf * file.leaf_size, piece) != len(piece):
                raise IntegrityError(f"{display(file.entry.path)} was cut short while it was read; send it again")
            content.append((leaf * file.leaf_size, bytes(piece)))
        coded = self._coder.code(kept, content, len(self._channels), lambda: channel.send(m.Ping()))
        if coded is None:
            with file.lock:
                self._keeper.doubt(file)
        return coded if coded is not None and len(coded.body) <= MAX_BLOCK_BODY else None

    def _leaf_unchanged(self, file: Outgoing, leaf: int, digest: bytes) -> None:
        with file.lock:
            file.set_hash(leaf, digest)
            file.unchanged.append(leaf)
        self._leaf_settled(file, leaf)

    def _task_done(self, task: LeafTask | SegmentTask) -> None:
        if isinstance(task, LeafTask) and task.again:
            return
        with task.file.lock:
            task.file.pending -= 1
            last = task.file.pending == 0 and task.file.listed
        if last:
            self._end_phase(task.file)

    def _end_phase(self, file: Outgoing) -> None:
        """All leaves of a phase are through: send the changed ones as deltas, or say that this was all."""
        if file.changed and file.kept is not None:
            with file.lock:
                leaves, file.changed = sorted(file.changed), []
                groups = segments(leaves, file.leaf_size, len(self._channels))
                file.pending = len(groups)
            self._work.add_segments(file, groups)
            return
        if file.changed:
            self._request_index(file)
            return
        try:
            self._reader(file).check_unchanged()
        except DwcpError as error:
            self._give_up(file, error)
            return
        root = self._hash.root(file.hashes[: file.leaves * file.hash_size], file.size)
        file.index = None
        runs = runs_of(sorted(file.unchanged))
        pieces = [runs[at : at + m.MAX_RUNS] for at in range(0, len(runs), m.MAX_RUNS)] or [[]]
        for piece in pieces[:-1]:
            self._control.send(m.FileEnd(file=file.id, size=file.size, root=root, unchanged=piece, more=True))
        self._control.send(m.FileEnd(file=file.id, size=file.size, root=root, unchanged=pieces[-1]))

    def _request_index(self, file: Outgoing) -> None:
        """Asks for finer hashes of the old version, of which no copy is here."""
        with file.lock:
            file.changed.sort()
            leaves = MAX_INDEXED // file.leaf_size
            file.segment, file.changed = file.changed[:leaves], file.changed[leaves:]
            changed = len(file.segment) + len(file.changed)
            # content that only changed in place is found by its pages; an index of chunks costs more
            file.indexing = True
            chunks = file.index is None and (file.size != file.base_size or 8 * changed > file.leaves)
            chunks = chunks and file.base_size <= MAX_CHUNKED
        self._control.send(m.IndexRequest(file=file.id, pages=runs_of(file.segment), chunks=chunks))

    def _give_up(self, file: Outgoing, error: DwcpError) -> None:
        """The file cannot be sent; the others go on."""
        if file.id not in self._files:
            return
        self._control.send(m.Error(code=error.code, message=str(error), file=file.id))
        self._settle_failed(file, str(error))

    def _reader(self, file: Outgoing) -> Reader:
        with file.lock:
            if file.forgotten:
                raise Interrupted(f"{display(file.entry.path)} is not being sent any more")
            if file.reader is None:
                file.reader = self._source.open(file.entry)
                self._keeper.open(file)
            return file.reader

    def _send_pack(self, files: list[Outgoing], stream: int, channel: Channel) -> None:
        total = sum(file.size for file in files)
        with self._pool.buffer(max(1, total)) as view:
            packed: list[m.Packed] = []
            at = 0
            riding = []
            for file in files:
                if file.id not in self._files:
                    continue
                target = view[at : at + file.size]
                try:
                    self._read_small(file, target)
                except DwcpError as error:
                    self._give_up(file, error)
                    continue
                packed.append(m.Packed(file.id, file.size, self._hash.digest(target)))
                riding.append(file)
                at += file.size
            if not packed:
                return
            for file in riding:
                with file.lock:
                    file.unacked[PACKED] = stream
            self._encoder.send_pack(channel, view[:at], packed)

    def _read_small(self, file: Outgoing, target: memoryview) -> None:
        reader = self._source.open(file.entry)
        try:
            if reader.read_into(0, target) != len(target):
                raise IntegrityError(f"{display(file.entry.path)} was cut short while it was read; send it again")
            reader.check_unchanged()
        finally:
            reader.close()
