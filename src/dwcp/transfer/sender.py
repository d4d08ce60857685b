"""The sending role: announces the tree, learns what the receiver needs, and lets the streams carry it.

Threads: one scans, one for each stream takes tasks from `Work`, and the caller's feeds what comes on the control
connection to `handle`. The two meet in `Outgoing`, each under its own lock; no lock is held while anything is sent on a
data connection.
"""

from __future__ import annotations

import contextlib
import threading
import time
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
from dwcp.hde.hashes import HASHES
from dwcp.hde.index import unpack_index
from dwcp.links.ucx import UcxLink
from dwcp.store.baselines import KeptCopies
from dwcp.transfer.carrying import Carrier
from dwcp.transfer.channel import Channel
from dwcp.transfer.counters import Tally
from dwcp.transfer.dictionaries import Trained
from dwcp.transfer.engine import Engine
from dwcp.transfer.feeding import Feeder
from dwcp.transfer.keeper import Keeper
from dwcp.transfer.pool import BufferPool
from dwcp.transfer.settings import Compression
from dwcp.transfer.source import USUAL, Source, StreamReader
from dwcp.transfer.throttle import Throttle
from dwcp.transfer.work import (
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
from dwcp.wire.messages import indexes_of
from dwcp.wire.paths import display
from dwcp.wire.tree import Change, TreeOptions, xattrs_size

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
        tree: TreeOptions = USUAL,
        tell: Callable[[list[Change]], None] | None = None,
        kept: KeptCopies | None = None,
        trained: Trained | None = None,
        pauses: bool = False,
    ) -> None:
        """`idle_seconds`: an idle stream says PING this often. `tell` is told what the receiver changes. `kept`: what
        was sent before, to a peer that takes segments. `trained`: to one that takes dictionaries. `pauses`: the peer
        wants to know of a pause."""
        super().__init__(control)
        self._source = source
        control.max_body = MAX_BODY
        self._hash = HASHES[checksum]
        self._compression = compression
        self._least_leaf = least_leaf
        self._keeper = Keeper(None if tree.dry_run else kept)
        self._trained = trained
        self._tally = tally
        self._idle_seconds = idle_seconds
        self._names_first = tree.delete_before
        self._throttle = Throttle(tree.rate) if tree.rate else None
        self._tell = tell
        self._pauses = pauses
        self._work = Work()
        self._files: dict[int, Outgoing] = {}
        self._announced = self._unsettled = 0
        self._unanswered_bytes = 0
        self._channels: dict[int, Channel] = {}
        self._surplus = 0
        self._fruitless = 0
        self._settled_at_loss = -1
        self._carrier = Carrier(
            source,
            control,
            self._work,
            self._keeper,
            trained,
            hash_=self._hash,
            compression=compression,
            pool=pool,
            idle_seconds=idle_seconds,
            pretend=tree.dry_run,
            streams=lambda: self.active_streams,
            is_wanted=lambda file: file.id in self._files,
            settled=self._leaf_settled,
            give_up=self._give_up,
        )
        self._scan_complete = True
        self._scan_told = False
        self._scanner = threading.Thread(target=self.guard, args=(self._scan,), name="dwcp-scan", daemon=True)

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self._trained is not None:
            self._trained.send(self._control)
        self._scanner.start()

    def close(self) -> None:
        """After it has finished: returns when nothing reads the source any more, which the caller closes."""
        if self._scanner.is_alive():
            self._scanner.join()
        self._keeper.close()
        if self._trained is not None:
            self._trained.close()

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
        return 0 if self.paused else -(-self._unanswered_bytes // PACK_BYTES)

    @property
    def paused(self) -> bool:
        return self._work.held

    def pause(self, paused: bool) -> None:
        """Blocks under way end; streams say PING until it goes on."""
        self._work.hold(paused)
        log.info("the transfer is paused" if paused else "the transfer goes on")
        if self._pauses:
            with contextlib.suppress(TemporaryError):
                # the session breaks off just now, and the next one begins with the same
                self._control.send(m.Pause(paused=paused))

    def limit_streams(self, limit: int) -> None:
        """Streams beyond `limit` end after the task that they are at."""
        with self._condition:
            self._surplus = max(0, len(self._channels) - max(1, limit))

    # -- announcing ----------------------------------------------------------------------------------------------------

    def _scan(self) -> None:
        if self._names_first:
            self._tell_names()
        batch: list[m.Entry] = []
        size = heft = 0

        def problem(error: DwcpError) -> None:
            self._scan_complete = False
            self._failed(str(error))

        for entry in self._source.entries(problem):
            if self.finished.is_set():
                return
            batch.append(entry)
            size += len(entry.path) + len(entry.link) + xattrs_size(entry) + 64
            heft += weight(entry, self._least_leaf)
            if heft >= m.MAX_ENTRIES or size >= ENTRY_BYTES:
                self._announce(batch)
                batch, size, heft = [], 0, 0
        if batch:
            self._announce(batch)
        self._scan_told = True
        self._control.send(m.Scanned(count=self._announced, complete=self._scan_complete))

    def _tell_names(self) -> None:
        """All names of the source, before any of them is announced: what it does not have can go first."""
        complete = True

        def problem(error: DwcpError) -> None:
            nonlocal complete
            complete = False

        batch: list[bytes] = []
        size = 0
        for entry in self._source.entries(problem):
            if self.finished.is_set():
                return
            batch.append(entry.path)
            size += len(entry.path)
            if len(batch) >= m.MAX_ENTRIES or size >= ENTRY_BYTES:
                self._send_names(batch, last=False, complete=True)
                batch, size = [], 0
        self._send_names(batch, last=True, complete=complete)

    def _send_names(self, names: list[bytes], *, last: bool, complete: bool) -> None:
        plain = m.encode_names(names)
        message = m.Names(count=len(names), size=len(plain), last=last, complete=complete)
        self._control.send(message, codecs.encode_names(plain))

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
        users, groups = self._source.identities(entries)
        message = m.Entries(first=first, count=len(entries), size=len(plain), users=users, groups=groups)
        self._control.send(message, codecs.encode_names(plain))

    # -- what the receiver says ----------------------------------------------------------------------------------------

    def _handle(self, message: m.Message, body: bytes) -> None:
        match message:
            case m.Need():
                self._need(message, body)
            case m.BaseIndex():
                self._base_index(message, body)
            case m.Ack():
                self._ack(message)
            case m.DictionaryHeld() if self._trained is not None:
                self._trained.held(message.id)
            case m.Resend():
                self._resend(message)
            case m.Done():
                self._done(message)
            case m.Error(file=None):
                self.abort(from_code(message.code, message.message))
            case m.Error(file=number):
                self._settle_failed(self._unless_settled(number or 0), from_code(message.code, message.message))
            case m.StreamLost():
                self._stream_lost_there(message)
            case m.Changes():
                if self._tell is not None:
                    self._tell(message.changes)
            case m.Streams():
                self.limit_streams(message.limit)
            case m.Pause():
                self.pause(message.paused)
            case m.Finished():
                if self._files or not self._scan_told:
                    raise ProtocolError(f"the peer has finished, it says, with {len(self._files)} files not settled")
                self.progress.deleted = message.deleted
                for line in message.errors:
                    self._failed(line)
                self.progress.notes = message.notes
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
        reader = self._source.open(file.entry)
        if not isinstance(reader, StreamReader):
            raise ProtocolError("only a stream is fed")
        Feeder(self._work, self.progress, self._carrier.end_phase).feed(file, reader, mode)

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
            if self._trained is not None and PACKED in file.unacked:
                self._trained.doubt()
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

    def _settle_failed(self, file: Outgoing | None, error: DwcpError) -> None:
        if file is None:
            return
        self._failed(str(error), temporary=isinstance(error, TemporaryError))
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

    def _failed(self, line: str, *, temporary: bool = False) -> None:
        log.warning("a file could not be sent", reason=line)
        self.progress.failed(line, temporary=temporary)

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
                sent = self._await_turn(task, channel)
                if number not in self._channels:
                    self._work.put_back(task)
                    raise UnreachableError("the peer has given this stream up")
                self._carrier.perform(task, number, channel)
                if self._throttle is not None:
                    self._throttle.correct(channel.sent - sent)
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

    def _await_turn(self, task: Task, channel: Channel) -> int:
        """Waits until the transfer's rate allows the task; what `channel.sent` is after it by that reckoning."""
        if self._throttle is None:
            return 0
        size = _plain_size(task)
        begin = self._throttle.begin_at(size, time.monotonic())
        while (left := begin - time.monotonic()) > 0 and not self.finished.wait(min(left, self._idle_seconds)):
            if left > self._idle_seconds:
                channel.send(m.Ping())
        return channel.sent + size

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

    def _give_up(self, file: Outgoing, error: DwcpError) -> None:
        """The file cannot be sent; the others go on."""
        if file.id not in self._files:
            return
        if file.reader is not None and not isinstance(error, TemporaryError):
            try:
                file.reader.check_unchanged()
            except DwcpError as changed:
                # that explains it
                error = changed
        self._control.send(m.Error(code=error.code, message=str(error), file=file.id))
        self._settle_failed(file, error)


def _plain_size(task: Task) -> int:
    """Bytes of content that a task is about."""
    match task:
        case PackTask():
            return sum(file.size for file in task.files)
        case SegmentTask():
            return sum(task.file.leaf_bytes(leaf) for leaf in task.leaves)
        case LeafTask():
            return task.file.leaf_bytes(task.leaf)
