"""The receiving role: says what it lacks of the announced tree, writes what comes, and gives names to what is whole.

Threads: the caller's feeds the control connection to `handle`; one plans, in the order of announcement; a few hash
baselines and put files together; one for each stream receives, verifies and writes blocks; the committer publishes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import structlog

from dwcp.errors import DwcpError, IntegrityError, Interrupted, ProtocolError, TemporaryError, fault, from_code
from dwcp.files.root import FATAL, Parts, Root, failure, open_regular
from dwcp.files.staging import Staging
from dwcp.hde import codecs
from dwcp.hde.hashes import HASHES, MAX_LEAVES
from dwcp.hde.index import MAX_CHUNKED, MAX_INDEXED, cut, pack_index, page_hashes
from dwcp.hde.standalone import MAX_CONTENT
from dwcp.transfer.channel import BodyError, Channel, DamagedLinkError
from dwcp.transfer.commit import Committer, apply_metadata
from dwcp.transfer.counters import Tally
from dwcp.transfer.encoding import Baseline, decode_leaf, decode_segment
from dwcp.transfer.engine import Engine
from dwcp.transfer.incoming import BASELINE, Incoming
from dwcp.transfer.plan import Plan, Planner
from dwcp.transfer.pool import BufferPool
from dwcp.transfer.segments import CODERS
from dwcp.transfer.tree import TreeKeeper
from dwcp.transfer.work import MAX_BLOCK_BODY, MAX_RESENDS, MAX_UNSETTLED_AT_ONCE, PACK_BYTES, weight
from dwcp.wire import messages as m
from dwcp.wire.frames import Prefix
from dwcp.wire.messages import indexes_of, runs_of
from dwcp.wire.paths import display

HASHERS = 2
"""Threads that read baselines: the cores of a small machine; more would only seek against each other on a disk."""
MAX_ENTRIES_BODY = m.MAX_ENTRIES_SIZE + 64 * 1024
"""The only body on the control connection: a list of entries that did not shrink."""

log = structlog.get_logger()


class Receiver(Engine):
    """One transfer's receiving end."""

    def __init__(
        self,
        root: Root,
        target: Parts,
        control: Channel,
        *,
        checksum: str,
        delete: bool,
        delta: bool,
        least_leaf: int,
        pool: BufferPool,
        tally: Tally,
    ) -> None:
        """Writes `target` and what is below it, in `root`, which it takes over. Raises a DwcpError where it can't."""
        super().__init__(control)
        control.max_body = MAX_ENTRIES_BODY
        self._hash = HASHES[checksum]
        self._pool = pool
        self._tally = tally
        self._least_leaf = least_leaf
        self._files: dict[int, Incoming] = {}
        self._done_batch: tuple[list[int], list[int]] = ([], [])
        self._announced = self._settled = self._unsettled = 0
        self._scanned: m.Scanned | None = None
        self._decoding = threading.BoundedSemaphore(CODERS)
        self._is_stream = self._finishing = self._closing = False
        self._wanted_bytes = 0
        self._active_streams = 0
        self._root = root
        try:
            self._staging = Staging(root)
        except OSError as error:
            raise failure(error, "cannot write below", os.fsencode(root.path)) from error
        self._tree = TreeKeeper(root, target, self._staging, delete=delete)
        self._planner = Planner(root, target, self._tree, self._staging, self._hash, delta=delta)
        self._committer = Committer(
            root,
            self._staging,
            replace_directories=delete,
            acknowledge=self._acknowledge,
            published=self._published,
            failed=self._fail,
            fatal=self.tell_and_abort,
        )
        self._planning = ThreadPoolExecutor(1, "dwcp-plan")
        self._hashing = ThreadPoolExecutor(HASHERS, "dwcp-hash")

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._committer.start()

    def close(self) -> None:
        """After it has finished and its streams have ended: gives back everything."""
        with self._condition:
            self._closing = True
        self._planning.shutdown(cancel_futures=True)
        self._hashing.shutdown(cancel_futures=True)
        self._committer.close()
        for file in list(self._files.values()):
            file.close()
        self._planner.close()
        self._tree.close()
        try:
            self._staging.discard()
        except OSError as error:
            log.warning("the staging directory could not be cleaned", reason=str(error))
        self._staging.close()
        self._root.close()

    def _submit(self, pool: ThreadPoolExecutor, step: Callable[[], None]) -> None:
        """Has a step done by a helper thread, unless they are given back; the committer may still publish then."""
        with self._condition:
            if not self._closing:
                pool.submit(self.guard, step)

    def _as_dwcp_error(self, error: Exception) -> DwcpError:
        if isinstance(error, OSError):
            return failure(error, "cannot work on", os.fsencode(self._root.path))
        return super()._as_dwcp_error(error)

    @property
    def active_streams(self) -> int:
        return self._active_streams

    def backlog(self) -> int:
        """Leaves that were asked for and have not come: as many streams would find work."""
        return max(0, self._wanted_bytes + PACK_BYTES - 1) // PACK_BYTES

    def expected(self) -> int:
        """Leaves that may be asked for soon: what is announced is planned at once."""
        return 0

    def limit_streams(self, limit: int) -> None:
        self._control.send(m.Streams(limit=limit))

    # -- what the sender says ------------------------------------------------------------------------------------------

    def _handle(self, message: m.Message, body: bytes) -> None:
        match message:
            case m.Entries():
                self._entries(message, body)
            case m.Scanned():
                if message.count != self._announced or self._scanned is not None:
                    raise ProtocolError("the peer lost count of its files")
                self._scanned = message
                self._submit(self._planning, self._finish_if_done)
            case m.FileEnd():
                self._file_end(message)
            case m.IndexRequest():
                self._index_request(message)
            case m.Error(file=None):
                self.abort(from_code(message.code, message.message))
            case m.Error(file=number):
                self._sender_gave_up(number or 0, message.message)
            case m.StreamLost():
                raise ProtocolError("only a receiver can lose a stream")
            case _:
                raise ProtocolError(f"the peer sent a {type(message).__name__} to the receiving end of a transfer")

    def _sender_gave_up(self, number: int, reason: str) -> None:
        if number < self._announced and number not in self._files:
            # it has been settled here since the peer spoke of it: messages cross
            return
        file = self._announced_file(number)
        self.progress.failed(reason)
        self._settle(file)
        self._finish_if_done()

    def _announced_file(self, number: int) -> Incoming:
        file = self._files.get(number)
        if file is None:
            raise ProtocolError(f"the peer speaks of file {number}, which is not under way")
        return file

    def _file(self, number: int) -> Incoming:
        file = self._announced_file(number)
        if not file.wanted:
            raise ProtocolError(f"the peer sends file {number}, which it was not asked for")
        return file

    def _file_or_none(self, number: int) -> Incoming | None:
        """None for what was settled: a copy of something that was sent again and has arrived since."""
        return self._file(number) if number in self._files else None

    def _entries(self, message: m.Entries, body: bytes) -> None:
        if message.first != self._announced or self._scanned is not None:
            raise ProtocolError("the peer lost count of its files")
        entries = m.decode_entries(codecs.decode_names(body, message.size), message.count)
        self._check(entries)
        with self._condition:
            self._unsettled += sum(weight(entry, self._least_leaf) for entry in entries)
            if self._unsettled > MAX_UNSETTLED_AT_ONCE:
                raise ProtocolError("the peer announces more files at once than are allowed")
        self._announced += len(entries)
        self.progress.add(
            files_total=sum(entry.type != "dir" for entry in entries), bytes_total=sum(entry.size for entry in entries)
        )
        self._submit(self._planning, lambda: self._plan(message.first, entries))

    def _check(self, entries: list[m.Entry]) -> None:
        """Raises ProtocolError for entries that no sender makes, before anything is allocated for them."""
        for entry in entries:
            if entry.size > (m.MAX_FILE if entry.type == "file" else 0):
                raise ProtocolError(f"the peer announces a {entry.type} of {entry.size} bytes")
        if self._is_stream or (len(entries) + self._announced > 1 and any(e.type == "stream" for e in entries)):
            raise ProtocolError("the peer announces something beside a stream, which comes alone")
        self._is_stream = entries[0].type == "stream"

    def _plan(self, first: int, entries: list[m.Entry]) -> None:
        whole: list[int] = []
        for number, entry in enumerate(entries, first):
            if self.finished.is_set():
                return
            file = Incoming(number, entry, self._planner.target_of(entry), self._hash.size, self._least_leaf)
            self._files[number] = file
            try:
                plan = self._planner.plan(file)
            except DwcpError as error:
                self._fail(file, error)
                continue
            except OSError as error:
                if error.errno in FATAL:
                    raise
                self._fail(file, failure(error, "cannot write", b"/".join(file.target)))
                continue
            match plan:
                case Plan.DONE | Plan.UNCHANGED:
                    self._settle(file)
                    self.progress.add(
                        files_done=int(entry.type != "dir"),
                        bytes_done=entry.size,
                        unchanged=int(plan is Plan.UNCHANGED and entry.type != "dir"),
                    )
                    self._planned_done(number, plan)
                case Plan.WHOLE:
                    self._wanted_bytes += max(entry.size, 1)
                    file.wanted = True
                    whole.append(number)
                case Plan.COMPARE:
                    self._wanted_bytes += entry.size
                    self._submit(self._hashing, partial(self._compare, file))
        self._flush_done()
        if whole:
            self._control.send(m.Need(files=whole))
        self._finish_if_done()

    def _planned_done(self, number: int, plan: Plan) -> None:
        done, unchanged = self._done_batch
        (unchanged if plan is Plan.UNCHANGED else done).append(number)

    def _flush_done(self) -> None:
        done, unchanged = self._done_batch
        self._done_batch = ([], [])
        if done or unchanged:
            self._control.send(m.Done(files=runs_of(done), unchanged=runs_of(unchanged)))

    def _compare(self, file: Incoming) -> None:
        """Tells the sender what is here of a file: leaves of its unfinished part, or of a baseline."""
        try:
            self._planner.hash_what_is_here(file, self.finished.is_set)
        except OSError as error:
            if error.errno in FATAL:
                raise
            self._fail(file, failure(error, "cannot read", b"/".join(file.target)))
            return
        except DwcpError as error:
            self._fail(file, error)
            return
        file.wanted = True
        if any(file.origin):
            self._control.send(m.Need(files=[file.id], base_size=file.base_size), bytes(file.hashes))
        else:
            self._control.send(m.Need(files=[file.id]))

    def _index_request(self, request: m.IndexRequest) -> None:
        """Answered one at a time for each file, and in parts, so that no peer can make us hold what it doesn't take."""
        file = self._file(request.file)
        leaves = indexes_of(request.pages, file.leaves)
        if not file.base_size:
            raise ProtocolError("the peer asked for hashes of a baseline that was not offered")
        if len(leaves) * file.leaf_size > MAX_INDEXED or (request.chunks and file.base_size > MAX_CHUNKED):
            raise ProtocolError("the peer asked for more hashes of a baseline than one frame holds")
        with file.lock:
            if file.indexing:
                raise ProtocolError("the peer asked for more hashes of a baseline at once than are allowed")
            file.indexing = True
        self._submit(self._hashing, lambda: self._send_index(file, request, leaves))

    def _send_index(self, file: Incoming, request: m.IndexRequest, leaves: list[int]) -> None:
        with file.held() as alive:
            if alive:
                index = self._index(file, request, leaves)
                # before it is sent: the answer may be another request
                file.indexing = False
                self._control.send(m.BaseIndex(file=file.id), index)

    def _index(self, file: Incoming, request: m.IndexRequest, leaves: list[int]) -> bytes:
        base, base_size = self._base_fd(file), file.base_size
        pages = page_hashes(b"")
        for leaf in leaves:
            pages.extend(page_hashes(os.pread(base, file.leaf_size, leaf * file.leaf_size)))

        def read(offset: int, size: int) -> bytes:
            if self.finished.is_set():
                raise Interrupted("the transfer has ended")
            return os.pread(base, size, offset)

        return pack_index(pages, cut(read, base_size if request.chunks else 0))

    def _base_fd(self, file: Incoming) -> int:
        """The baseline, opened once. Raises OSError, or StorageError when it is gone."""
        with file.lock:
            if file.base_fd is None:
                if file.base is None:
                    raise ProtocolError("the peer refers to a baseline that was not offered")
                with self._root.directory(file.base[:-1]) as parent:
                    file.base_fd = open_regular(file.base[-1], parent)
            return file.base_fd

    def _baseline(self, file: Incoming) -> Baseline:
        fd = self._base_fd(file)
        return Baseline(file.base_size, lambda offset, view: os.preadv(fd, [view], offset))

    def _file_end(self, message: m.FileEnd) -> None:
        file = self._file(message.file)
        with file.lock:
            for leaf in indexes_of(message.unchanged, file.leaves):
                if not file.origin[leaf]:
                    raise ProtocolError(f"the peer calls leaf {leaf} of file {file.id} unchanged, which is not here")
                self._settled_bytes(file.settle(leaf))
        if not message.more:
            file.finish_at(message)
            self._complete_if_whole(file)

    # -- the streams ---------------------------------------------------------------------------------------------------

    def run_stream(self, number: int, channel: Channel, confirm: Callable[[], None] | None = None) -> None:
        """Receives blocks from one data connection until it ends; `confirm` waits for the peer to accept it.

        Raises ProtocolError, UnreachableError or TimeoutExpired when it breaks; the sender is told.
        """
        with self._condition:
            self._active_streams += 1
        try:
            if confirm is not None:
                confirm()
            channel.max_body = MAX_BLOCK_BODY
            while not self.finished.is_set():
                message, _, prefix = channel.receive_head()
                if isinstance(message, m.Bye):
                    return
                self._take(message, prefix, channel)
        except EOFError:
            return
        except OSError as error:
            self.tell_and_abort(failure(error, "cannot write to", os.fsencode(self._root.path)))
        except (ProtocolError, TemporaryError) as error:
            if not self.finished.is_set():
                self._tally.add("frames_corrupt", isinstance(error, ProtocolError | DamagedLinkError))
                log.warning("a stream broke", stream=number, link=channel.link.description, reason=str(error))
                self._control.send(m.StreamLost(stream=number, reason=str(error)))
            raise
        except DwcpError as error:
            self.tell_and_abort(error)
        except Exception as error:  # what the stream carried would never be asked for again
            log.exception("a stream failed", stream=number)
            self.tell_and_abort(fault(error))
        finally:
            with self._condition:
                self._active_streams -= 1

    def _take(self, message: m.Message, prefix: Prefix, channel: Channel) -> None:
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
        file = self._files.get(number)
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

    def _block(self, block: m.Block, prefix: Prefix, body: memoryview) -> None:
        file = self._file_or_none(block.file)
        if file is None:
            return
        with file.held() as alive:
            if not alive or file.completing:
                return
            file.expect(block.leaf, block.size)
            try:
                content, digest = decode_leaf(block, body, prefix.body_hash, self._hash, lambda: self._baseline(file))
                self._write(file, block.leaf, content, digest, zero=block.codec == codecs.ZERO.id and not block.ops)
            except (IntegrityError, ProtocolError):
                raise
            except DwcpError as error:
                self._fail(file, error)
                return
        self._complete_if_whole(file)

    def _segment(self, segment: m.Segment, body: memoryview) -> None:
        file = self._file_or_none(segment.file)
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
                    content = decode_segment(body, segment.size, self._baseline(file))
                at = 0
                for place, (leaf, size) in enumerate(zip(leaves, sizes, strict=True)):
                    piece = content[at : at + size]
                    at += size
                    digest = segment.digests[place * file.hash_size : (place + 1) * file.hash_size]
                    if self._hash.digest(piece) == digest:
                        self._write(file, leaf, piece, digest)
                    else:
                        damaged.append(leaf)
            except ProtocolError:
                raise
            except DwcpError as error:
                self._fail(file, error)
                return
        if damaged:
            self._ask_again(file.id, damaged, IntegrityError("a segment and the old version make something else"))
        self._complete_if_whole(file)

    def _settled_bytes(self, size: int) -> None:
        with self._condition:
            self._wanted_bytes -= size
        self.progress.add(bytes_done=size)

    def _write(self, file: Incoming, leaf: int, content: memoryview, digest: bytes, *, zero: bool = False) -> None:
        """A verified leaf, into the part and its journal. Raises OSError or a DwcpError."""
        fd, fresh = self._open_for_writing(file)
        # nothing was ever written there: the hole reads as zeros
        if not (zero and fresh and not file.settled[leaf]):
            write_all(fd, content, leaf * file.leaf_size)
        self._settled_bytes(file.arrived(leaf, digest))
        if file.journal is not None:
            file.journal.add(leaf, digest)
            self._committer.written(file, leaf)

    def _open_for_writing(self, file: Incoming) -> tuple[int, bool]:
        """(descriptor, whether nothing was in it when this transfer began)."""
        with file.lock:
            if file.fd is None and file.journalled:
                self._planner.open_part(file)
            if file.fd is None:
                file.temporary, file.fd = self._staging.create()
            return file.fd, file.part is None or file.part.fresh

    def _pack(self, pack: m.Pack, body: memoryview) -> None:
        if pack.size != sum(packed.size for packed in pack.files) or pack.size > PACK_BYTES:
            raise ProtocolError("a pack does not add up")
        content = memoryview(codecs.decode(pack.codec, body, pack.size))
        at = 0
        for packed in pack.files:
            piece = content[at : at + packed.size]
            at += packed.size
            file = self._file_or_none(packed.file)
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
            file.counted = packed.size
            self._settled_bytes(packed.size)
            self._write_small(file, piece)

    def _write_small(self, file: Incoming, content: memoryview) -> None:
        file.temporary, fd = self._staging.create()
        try:
            write_all(fd, content, 0)
            apply_metadata(fd, file.entry.mode, file.entry.mtime_ns)
        finally:
            os.close(fd)
        self._committer.ready(file)

    # -- endings -------------------------------------------------------------------------------------------------------

    def _complete_if_whole(self, file: Incoming) -> None:
        if file.is_whole():
            self._submit(self._hashing, lambda: self._complete_held(file))

    def _complete_held(self, file: Incoming) -> None:
        with file.held() as alive:
            if alive:
                self._complete(file)

    def _complete(self, file: Incoming) -> None:
        """Fetches unchanged leaves from the baseline, checks the whole and hands the file to the committer."""
        end = file.end
        if end is None:
            raise ProtocolError("a file cannot be completed before its end is known")
        size = file.leaves * self._hash.size
        if self._hash.root(file.hashes[:size], file.size) != end.root:
            self._fail(file, IntegrityError(f"{display(file.entry.path)} does not match the hash of the whole file"))
            return
        try:
            if self._is_baseline_itself(file):
                self._keep(file)
                return
            fd, _ = self._open_for_writing(file)
            for leaf in range(file.leaves):
                if self.finished.is_set():
                    return
                if file.origin[leaf] == BASELINE:
                    self._copy_from_base(file, leaf, fd)
            os.ftruncate(fd, file.size)
            if file.is_stream:
                self._check_end(file, fd)
            apply_metadata(fd, file.entry.mode, time.time_ns() if file.is_stream else file.entry.mtime_ns)
        except DwcpError as error:
            self._fail(file, error)
            return
        self._committer.ready(file)

    def _check_end(self, file: Incoming, fd: int) -> None:
        """Of a stream, whose size is only known from its end: the last leaf has to reach to there, and no further.

        Raises IntegrityError.
        """
        if not file.leaves:
            return
        last = file.leaves - 1
        digest = bytes(file.hashes[last * self._hash.size : (last + 1) * self._hash.size])
        with self._pool.buffer(file.leaf_bytes(last)) as view:
            if os.preadv(fd, [view], last * file.leaf_size) != len(view) or self._hash.digest(view) != digest:
                raise IntegrityError(f"{display(file.entry.path)} has another size than what came of it")

    def _is_baseline_itself(self, file: Incoming) -> bool:
        return (
            file.base == file.target
            and file.base_size == file.size
            and all(origin == BASELINE for origin in file.origin)
        )

    def _keep(self, file: Incoming) -> None:
        """Every leaf of what is here was found unchanged: only the metadata follow."""
        apply_metadata(self._base_fd(file), file.entry.mode, file.entry.mtime_ns)
        self._control.send(m.Done(files=[], unchanged=[(file.id, 1)]))
        self._settle(file)
        self.progress.add(files_done=1, bytes_done=file.size - file.counted, unchanged=1)
        self._finish_if_done()

    def _copy_from_base(self, file: Incoming, leaf: int, fd: int) -> None:
        digest = bytes(file.hashes[leaf * self._hash.size : (leaf + 1) * self._hash.size])
        with self._pool.buffer(file.leaf_bytes(leaf)) as view:
            got = os.preadv(self._base_fd(file), [view], leaf * file.leaf_size)
            if got != len(view) or self._hash.digest(view) != digest:
                raise TemporaryError(
                    f"{display(b'/'.join(file.target))} changed at the receiver while it was replaced; send it again"
                )
            write_all(fd, view, leaf * file.leaf_size)
        file.arrived(leaf, digest)

    def _acknowledge(self, file: Incoming, leaves: list[tuple[int, int]]) -> None:
        if file.id in self._files:
            for at in range(0, len(leaves), m.MAX_RUNS):
                self._control.send(m.Ack(file=file.id, leaves=leaves[at : at + m.MAX_RUNS]))

    def _published(self, files: list[Incoming]) -> None:
        self._control.send(m.Done(files=runs_of(sorted(file.id for file in files))))
        self._tally.add("files_received", len(files))
        for file in files:
            self._settle(file)
            self.progress.add(files_done=1, bytes_done=file.size - file.counted)
        self._finish_if_done()

    def _fail(self, file: Incoming, error: DwcpError) -> None:
        """The file cannot be received; the others go on."""
        log.warning("a file could not be received", path=display(b"/".join(file.target)), reason=str(error))
        self._control.send(m.Error(code=error.code, message=str(error), file=file.id))
        self.progress.failed(str(error))
        self._settle(file)
        self._finish_if_done()

    def _settle(self, file: Incoming) -> None:
        file.close()
        with self._condition:
            if self._files.pop(file.id, None) is not None:
                self._settled += 1
                self._unsettled -= weight(file.entry, self._least_leaf)

    def _finish_if_done(self) -> None:
        with self._condition:
            scanned = self._scanned
            if scanned is None or self._settled < scanned.count or self._finishing:
                return
            self._finishing = True
        self._submit(self._planning, lambda: self._finish_tree(scanned))

    def _finish_tree(self, scanned: m.Scanned) -> None:
        problems = self._tree.finish(complete=scanned.complete and not self.progress.errors)
        for line in problems:
            self.progress.failed(line)
        self._staging.sync()
        self.progress.deleted = self._tree.deleted
        self.verified = not self.progress.errors
        message = m.Finished(deleted=self._tree.deleted, verified=self.verified, errors=problems[:64])
        with self._condition:
            # the peer leaves as soon as it has this, which must not look like a peer that left too early
            self._control.send(message)
            self._finish()


def write_all(fd: int, content: memoryview, offset: int) -> None:
    """Raises OSError."""
    while content:
        written = os.pwrite(fd, content, offset)
        content = content[written:]
        offset += written
