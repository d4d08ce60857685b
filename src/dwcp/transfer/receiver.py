"""The receiving role: says what it lacks of the announced tree, writes what comes, and gives names to what is whole.

Threads: the caller's feeds the control connection to `handle`; one plans, in the order of announcement; a few hash
baselines and put files together; one for each stream receives, verifies and writes blocks; the committer publishes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import structlog

from dwcp.errors import (
    DwcpError,
    FencedError,
    IntegrityError,
    ProtocolError,
    RefusedError,
    TemporaryError,
    fault,
    from_code,
)
from dwcp.files.attributes import Attributes
from dwcp.files.root import FATAL, Parts, Root, failure
from dwcp.files.staging import NoStaging, Staging
from dwcp.filters.rules import top_level
from dwcp.hde import codecs
from dwcp.hde.hashes import HASHES
from dwcp.hde.index import MAX_CHUNKED, MAX_INDEXED
from dwcp.transfer.arriving import Arrivals
from dwcp.transfer.backup import Backup, check_backup
from dwcp.transfer.channel import Channel, DamagedLinkError
from dwcp.transfer.commit import Committer
from dwcp.transfer.counters import Tally
from dwcp.transfer.dictionaries import Taken
from dwcp.transfer.engine import Engine
from dwcp.transfer.fencing import UNFENCED, Ticket, Unfenced
from dwcp.transfer.incoming import Incoming
from dwcp.transfer.plan import Plan, Planner
from dwcp.transfer.pool import BufferPool
from dwcp.transfer.removal import Removal
from dwcp.transfer.tree import TreeKeeper
from dwcp.transfer.work import MAX_BLOCK_BODY, MAX_UNSETTLED_AT_ONCE, PACK_BYTES, weight
from dwcp.transfer.writing import Writer
from dwcp.wire import messages as m
from dwcp.wire.messages import indexes_of, runs_of
from dwcp.wire.paths import display
from dwcp.wire.tree import CONTENT, MAX_XATTRS_SIZE, NEW, SENT, SIZE, TIME, Change, TreeOptions, xattrs_size

USUAL = TreeOptions()
CHANGES = 16
"""Told at a time: with the longest names they still fit a head."""
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
        tree: TreeOptions = USUAL,
        dictionaries: Taken | None = None,
        unprivileged: str = "",
        tell: Callable[[list[Change]], None] | None = None,
        pauses: bool = False,
        ticket: Ticket | Unfenced = UNFENCED,
    ) -> None:
        """Writes `target` and what is below it, in `root`, which it takes over. `unprivileged`: why owners, devices and
        the like are not to be kept, whatever `tree` asks for. `dictionaries`: where the sender may bring some. `tell`
        learns what changes, where `tree` asks for that. `pauses`: the peer can be asked for a pause. `ticket`: asked
        before anything is changed, and closed by the caller. Raises a DwcpError where it can't."""
        super().__init__(control)
        control.max_body = MAX_ENTRIES_BODY
        self._hash = HASHES[checksum]
        self._tally = tally
        self._dictionaries = dictionaries
        self._least_leaf = least_leaf
        self._files: dict[int, Incoming] = {}
        self._done_batch: tuple[list[int], list[int]] = ([], [])
        self._announced = self._settled = self._unsettled = 0
        self._scanned: m.Scanned | None = None
        self._names_told = self._deleted_first = False
        self._problems: list[str] = []
        """What failed beside the files."""
        self._is_stream = self._finishing = self._closing = False
        self._wanted_bytes = 0
        self._active_streams = 0
        self._root = root
        self._options = tree
        self._tell = tell if tree.itemize else None
        self._ticket = ticket
        self._pauses = pauses
        self._paused = False
        """As the sender said last."""
        self._changes: list[Change] = []
        level = top_level(
            tree.filters, ignore_files=tree.ignore_files, at_sender=False, delete_excluded=tree.delete_excluded
        )
        backup_directory = check_backup(tree.backup_dir, tree.backup_suffix) if tree.backup else ()
        try:
            self._staging = NoStaging() if tree.dry_run else Staging(root)
        except OSError as error:
            raise failure(error, "cannot write below", os.fsencode(root.path)) from error
        self._attributes = Attributes(tree.keep, privileged=not unprivileged, why_not=unprivileged)
        backup = None
        if tree.backup and not tree.dry_run:
            backup = Backup(root, target, self._staging, backup_directory, tree.backup_suffix)
        removal = None
        if delete:
            removal = Removal(root, target, level, backup, self._report, most=tree.max_delete, pretend=tree.dry_run)
        self._tree = TreeKeeper(root, target, self._staging, self._attributes, removal, backup)
        self._planner = Planner(
            root,
            target,
            self._tree,
            self._staging,
            self._attributes,
            self._hash,
            delta=delta,
            compare=tree.compare,
            pretend=tree.dry_run,
        )
        self._committer = Committer(
            root,
            self._staging,
            replacing=self._tree.replacing,
            make_room=self._tree.make_room,
            acknowledge=self._acknowledge,
            published=self._published,
            failed=self._fail,
            fatal=self.tell_and_abort,
            changing=ticket.changing,
        )
        self._writer = Writer(
            root, self._staging, self._attributes, self._planner, pool, self._hash, self.finished.is_set, ticket.check
        )
        self._arrivals = Arrivals(
            control,
            self._writer,
            dictionaries,
            hash_=self._hash,
            pool=pool,
            tally=tally,
            file=self._file_or_none,
            arrived=self._arrived,
            small_is_written=self._small_is_written,
            whole=self._complete_if_whole,
            fail=self._fail,
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
            if not self._options.partial:
                self._drop(file)
            file.close()
        self._planner.close()
        self._tree.close()
        try:
            self._staging.discard()
        except OSError as error:
            log.warning("the staging directory could not be cleaned", reason=str(error))
        self._staging.close()
        self._root.close()

    def _drop(self, file: Incoming) -> None:
        try:
            if file.part is not None:
                self._staging.drop_part(file.part)
        except OSError as error:
            log.warning("an unfinished file stays", path=display(b"/".join(file.target)), reason=str(error))

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
        return 0 if self._paused else max(0, self._wanted_bytes + PACK_BYTES - 1) // PACK_BYTES

    def expected(self) -> int:
        """Leaves that may be asked for soon: what is announced is planned at once."""
        return 0

    def limit_streams(self, limit: int) -> None:
        self._control.send(m.Streams(limit=limit))

    @property
    def paused(self) -> bool:
        return self._paused

    def pause(self, paused: bool) -> None:
        """Asks the sender, which says when it is so."""
        if not self._pauses:
            raise RefusedError("the sending node is older and cannot be asked to pause; pause the transfer there")
        self._control.send(m.Pause(paused=paused))

    # -- what the sender says ------------------------------------------------------------------------------------------

    def _handle(self, message: m.Message, body: bytes) -> None:
        match message:
            case m.Names():
                self._names(message, body)
            case m.Entries():
                self._entries(message, body)
            case m.Scanned():
                if message.count != self._announced or self._scanned is not None:
                    raise ProtocolError("the peer lost count of its files")
                self._scanned = message
                self._submit(self._planning, self._finish_if_done)
            case m.FileEnd():
                self._file_end(message)
            case m.Dictionary() if self._dictionaries is not None:
                self._dictionaries.take(message, body)
                self._control.send(m.DictionaryHeld(id=message.id))
            case m.IndexRequest():
                self._index_request(message)
            case m.Pause():
                self._paused = message.paused
            case m.Error(file=None):
                self.abort(from_code(message.code, message.message))
            case m.Error(file=number):
                self._sender_gave_up(number or 0, from_code(message.code, message.message))
            case m.StreamLost():
                raise ProtocolError("only a receiver can lose a stream")
            case _:
                raise ProtocolError(f"the peer sent a {type(message).__name__} to the receiving end of a transfer")

    def _sender_gave_up(self, number: int, error: DwcpError) -> None:
        if number < self._announced and number not in self._files:
            # it has been settled here since the peer spoke of it: messages cross
            return
        file = self._announced_file(number)
        self.progress.failed(str(error), temporary=isinstance(error, TemporaryError))
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

    def _names(self, message: m.Names, body: bytes) -> None:
        """Of the whole tree, before it is announced. They are remembered here and not queued, so that no peer is faster
        than that."""
        if not self._options.delete_before or self._announced or self._names_told:
            raise ProtocolError("the peer tells names where none belong")
        names = m.decode_names(codecs.decode_names(body, message.size), message.count) if message.count else []
        for name in names:
            self._tree.keep(self._planner.target_of_name(name))
        self._names_told = message.last
        if message.last and message.complete:
            self._submit(self._planning, self._delete_first)

    def _delete_first(self) -> None:
        with self._ticket.changing():
            self._problems += self._tree.delete()
        self._deleted_first = True

    def _entries(self, message: m.Entries, body: bytes) -> None:
        if message.first != self._announced or self._scanned is not None:
            raise ProtocolError("the peer lost count of its files")
        entries = m.decode_entries(codecs.decode_names(body, message.size), message.count)
        self._check(entries)
        if not self._attributes.learn(message.users, message.groups):
            raise ProtocolError("the peer names more users or groups than are allowed")
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
            if xattrs_size(entry) > MAX_XATTRS_SIZE:
                raise ProtocolError("the peer announces more extended attributes of one name than are allowed")
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
            self._attributes.note_what_is_lost(entry)
            try:
                with self._ticket.held():
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
                    self._report_file(file)
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
                index = self._writer.index(file, leaves, chunks=request.chunks)
                # before it is sent: the answer may be another request
                file.indexing = False
                self._control.send(m.BaseIndex(file=file.id), index)

    def _file_end(self, message: m.FileEnd) -> None:
        file = self._file(message.file)
        with file.lock:
            for leaf in indexes_of(message.unchanged, file.leaves):
                if not file.origin[leaf]:
                    raise ProtocolError(f"the peer calls leaf {leaf} of file {file.id} unchanged, which is not here")
                self._settled_bytes(file.settle(leaf))
        if message.more:
            return
        file.finish_at(message)
        if self._options.dry_run:
            self._rehearsed(file)
        else:
            self._complete_if_whole(file)

    def _rehearsed(self, file: Incoming) -> None:
        """All that would be sent of a file is known."""
        if file.settled_count < file.leaves:
            file.what |= CONTENT | SENT
        done = [(file.id, 1)]
        self._control.send(m.Done(files=done if file.what else [], unchanged=[] if file.what else done))
        self._report_file(file)
        self._settle(file)
        self.progress.add(files_done=1, bytes_done=file.size - file.counted, unchanged=int(not file.what))
        self._finish_if_done()

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
                self._arrivals.take(message, prefix, channel)
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

    def _arrived(self, file: Incoming, leaf: int, digest: bytes) -> None:
        self._settled_bytes(file.arrived(leaf, digest))
        if file.journal is not None:
            file.journal.add(leaf, digest)
            self._committer.written(file, leaf)

    def _small_is_written(self, file: Incoming) -> None:
        file.counted = file.size
        self._settled_bytes(file.size)
        self._committer.ready(file)

    def _settled_bytes(self, size: int) -> None:
        with self._condition:
            self._wanted_bytes -= size
        self.progress.add(bytes_done=size)

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
            if self._writer.is_baseline_itself(file):
                self._keep(file)
                return
            if not self._writer.complete(file):
                return
        except DwcpError as error:
            self._fail(file, error)
            return
        self._committer.ready(file)

    def _keep(self, file: Incoming) -> None:
        """Every leaf of what is here was found unchanged: only the metadata follow."""
        if file.what:
            with self._ticket.changing():
                self._attributes.apply(self._writer.base_fd(file), file.entry)
            self._report_file(file)
        self._control.send(m.Done(files=[], unchanged=[(file.id, 1)]))
        self._settle(file)
        self.progress.add(files_done=1, bytes_done=file.size - file.counted, unchanged=1)
        self._finish_if_done()

    def _acknowledge(self, file: Incoming, leaves: list[tuple[int, int]]) -> None:
        if file.id in self._files:
            for at in range(0, len(leaves), m.MAX_RUNS):
                self._control.send(m.Ack(file=file.id, leaves=leaves[at : at + m.MAX_RUNS]))

    def _published(self, files: list[Incoming]) -> None:
        self._control.send(m.Done(files=runs_of(sorted(file.id for file in files))))
        self._tally.add("files_received", len(files))
        for file in files:
            if self._options.compare and not file.what & NEW:
                file.what |= CONTENT
            file.what |= SENT * bool(file.what & (NEW | CONTENT | SIZE | TIME))
            self._report_file(file)
            self._settle(file)
            self.progress.add(files_done=1, bytes_done=file.size - file.counted)
        self._finish_if_done()

    def _report_file(self, file: Incoming) -> None:
        if file.what:
            self._report(Change(file.entry.path, file.entry.type, file.what, file.entry.link))

    def _report(self, change: Change) -> None:
        if self._tell is None:
            return
        with self._condition:
            self._changes.append(change)
            full = len(self._changes) >= CHANGES
        if full:
            self._tell_changes()

    def _tell_changes(self) -> None:
        with self._condition:
            changes, self._changes = self._changes, []
        if changes and self._tell is not None:
            self._tell(changes)

    def _fail(self, file: Incoming, error: DwcpError) -> None:
        """The file cannot be received; the others go on, unless none of them may be written any more."""
        if isinstance(error, FencedError):
            self.tell_and_abort(error)
            return
        log.warning("a file could not be received", path=display(b"/".join(file.target)), reason=str(error))
        self._control.send(m.Error(code=error.code, message=str(error), file=file.id))
        self.progress.failed(str(error), temporary=isinstance(error, TemporaryError))
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
        complete = scanned.complete and not self.progress.errors and not self._deleted_first
        if self._options.dry_run:
            self._problems += self._tree.delete() if complete else []
        else:
            with self._ticket.changing():
                self._problems += self._tree.finish(complete=complete)
        self._tell_changes()
        for line in self._problems:
            self.progress.failed(line)
        self._staging.sync()
        self.progress.deleted = self._tree.deleted
        self.verified = not self.progress.errors
        if self.verified and scanned.complete:
            self._ticket.completed()
        self.progress.notes = self._attributes.notes()
        message = m.Finished(
            deleted=self._tree.deleted, verified=self.verified, errors=self._problems[:64], notes=self.progress.notes
        )
        with self._condition:
            # the peer leaves as soon as it has this, which must not look like a peer that left too early
            self._control.send(message)
            self._finish()
