"""What a stream does with a task: reads what it is about, and sends what the receiver lacks of it."""

from __future__ import annotations

from collections.abc import Callable

from dwcp.errors import DwcpError, IntegrityError, Interrupted, TemporaryError
from dwcp.hde import codecs
from dwcp.hde.hashes import Hash, zero_digest
from dwcp.hde.index import MAX_CHUNKED, MAX_INDEXED
from dwcp.transfer.channel import Channel
from dwcp.transfer.dictionaries import Trained
from dwcp.transfer.encoding import BlockEncoder, delta_ops
from dwcp.transfer.keeper import Keeper
from dwcp.transfer.pool import BufferPool
from dwcp.transfer.segments import Coded, Coder, segments
from dwcp.transfer.settings import Compression
from dwcp.transfer.source import Reader, Source
from dwcp.transfer.work import MAX_BLOCK_BODY, PACKED, LeafTask, Mode, Outgoing, PackTask, SegmentTask, Task, Work
from dwcp.wire import messages as m
from dwcp.wire.messages import runs_of
from dwcp.wire.paths import display


class Carrier:
    """Of one sender; all its streams use it at once. No lock is held while anything is sent on a data connection."""

    def __init__(
        self,
        source: Source,
        control: Channel,
        work: Work,
        keeper: Keeper,
        trained: Trained | None,
        *,
        hash_: Hash,
        compression: Compression,
        pool: BufferPool,
        idle_seconds: float,
        pretend: bool,
        streams: Callable[[], int],
        is_wanted: Callable[[Outgoing], bool],
        settled: Callable[[Outgoing, int], None],
        give_up: Callable[[Outgoing, DwcpError], None],
    ) -> None:
        """`streams`: how many there are; `is_wanted`: whether a file is still under way; `settled`: the receiver has a
        leaf; `give_up`: a file cannot be sent."""
        self._source = source
        self._control = control
        self._work = work
        self._keeper = keeper
        self._trained = trained
        self._hash = hash_
        self._encoder = BlockEncoder(compression, hash_)
        self._coder = Coder(compression.delta_algorithm, idle_seconds)
        self._pool = pool
        self._pretend = pretend
        self._streams = streams
        self._is_wanted = is_wanted
        self._settled = settled
        self._give_up = give_up

    def perform(self, task: Task, stream: int, channel: Channel) -> None:
        if isinstance(task, PackTask):
            self._send_pack(task.files, stream, channel)
            return
        file = task.file
        if not self._is_wanted(file):
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
            if self._pretend:
                with file.lock:
                    file.set_hash(leaf, digest)
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
        coded = self._coder.code(kept, content, self._streams(), lambda: channel.send(m.Ping()))
        if coded is None:
            with file.lock:
                self._keeper.doubt(file)
        return coded if coded is not None and len(coded.body) <= MAX_BLOCK_BODY else None

    def _leaf_unchanged(self, file: Outgoing, leaf: int, digest: bytes) -> None:
        with file.lock:
            file.set_hash(leaf, digest)
            file.unchanged.append(leaf)
        self._settled(file, leaf)

    def _task_done(self, task: LeafTask | SegmentTask) -> None:
        if isinstance(task, LeafTask) and task.again:
            return
        with task.file.lock:
            task.file.pending -= 1
            last = task.file.pending == 0 and task.file.listed
        if last:
            self.end_phase(task.file)

    def end_phase(self, file: Outgoing) -> None:
        """All leaves of a phase are through: send the changed ones as deltas, or say that this was all."""
        if file.changed and file.kept is not None:
            with file.lock:
                leaves, file.changed = sorted(file.changed), []
                groups = segments(leaves, file.leaf_size, self._streams())
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
            contents: list[memoryview] = []
            at = 0
            riding = []
            for file in files:
                if not self._is_wanted(file):
                    continue
                target = view[at : at + file.size]
                try:
                    self._read_small(file, target)
                except DwcpError as error:
                    self._give_up(file, error)
                    continue
                packed.append(m.Packed(file.id, file.size, self._hash.digest(target)))
                contents.append(target)
                riding.append(file)
                at += file.size
            if not packed:
                return
            for file in riding:
                with file.lock:
                    file.unacked[PACKED] = stream
            self._encoder.send_pack(channel, view[:at], packed, self._trained.usable if self._trained else None)
            if self._trained is not None:
                self._trained.note(contents, at)

    def _read_small(self, file: Outgoing, target: memoryview) -> None:
        reader = self._source.open(file.entry)
        try:
            if reader.read_into(0, target) != len(target):
                reader.check_unchanged()
                raise IntegrityError(f"{display(file.entry.path)} was cut short while it was read; send it again")
            reader.check_unchanged()
        finally:
            reader.close()
