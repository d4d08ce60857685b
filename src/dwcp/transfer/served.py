"""One session as its responder serves it: requests, and at most one transfer."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog

from dwcp.config.model import Export
from dwcp.errors import DwcpError, Interrupted, NotFoundError, ProtocolError, RefusedError, TemporaryError
from dwcp.files.root import Parts, Root, failure
from dwcp.links.ucx import UcxLink
from dwcp.telemetry import NO_SPAN, Span
from dwcp.transfer import tracing
from dwcp.transfer.asked import itself, listing, read_range
from dwcp.transfer.board import Role, State, TransferStatus
from dwcp.transfer.channel import Channel, Meter
from dwcp.transfer.fencing import UNFENCED, Ticket, Unfenced
from dwcp.transfer.kept import answer as answer_about_versions
from dwcp.transfer.kept import open_version
from dwcp.transfer.node import Node
from dwcp.transfer.rdma import REQUIRED
from dwcp.transfer.receiver import Receiver
from dwcp.transfer.sender import ENTRY_BYTES, Sender
from dwcp.transfer.session import LIVELY, PARTING, Heartbeat, part, shutdown_later
from dwcp.transfer.settings import Compression
from dwcp.transfer.source import TreeSource
from dwcp.wire import messages as m
from dwcp.wire.handshake import DICTIONARY, PAUSE, RDMA, SEGMENT
from dwcp.wire.paths import check_relative, display
from dwcp.wire.tree import TreeOptions

OVERTAKEN = 5.0
"""Seconds that a data connection may be ahead of the control connection: some retransmissions of a lost segment."""

log = structlog.get_logger()


class ServedSession:
    """Belongs to the thread that calls `serve`; streams of the session call `run_stream` in theirs."""

    def __init__(self, node: Node, channel: Channel, peer: str, supersede: Callable[[ServedSession], None]) -> None:
        self.peer = peer
        self.join_key = self.peer_key = b""
        self.features: frozenset[str] = frozenset()
        """Of the peer."""
        self.key: tuple[str, str, bytes] | None = None
        """(peer, direction, path) of the transfer."""
        self.ended = threading.Event()
        self._node = node
        self._channel = channel
        self._supersede = supersede
        self._engine: Sender | Receiver | None = None
        self._source: TreeSource | None = None
        self._span: Span = NO_SPAN
        self._ticket: Ticket | Unfenced = UNFENCED
        self._meter = Meter()
        self._lock = threading.Lock()
        self._streams: dict[int, Channel] = {}
        self._claimed: set[int] = set()
        self._joined = 0
        self._idle = threading.Condition(self._lock)

    @property
    def busy(self) -> bool:
        """A transfer is under way."""
        return self._engine is not None and not self._engine.finished.is_set()

    @property
    def active_streams(self) -> int:
        return self._engine.active_streams if self._engine is not None else 0

    @property
    def rdma_streams(self) -> int:
        with self._lock:
            return sum(isinstance(channel.link, UcxLink) for channel in self._streams.values())

    def round_trip_seconds(self) -> float | None:
        return self._channel.link.round_trip_seconds()

    def claim(self, stream: int, *, probe: bool = False) -> bool:
        """False for a stream number that was used before, or where no transfer begins on the session; it may have
        overtaken its transfer's OPEN on the way, so a while is waited for that. A probe is for a session without a
        transfer, which has one at a time. Where true, `release` it in the end.

        Raises RefusedError when there are too many streams.
        """
        with self._lock:
            if self._joined >= m.MAX_STREAMS:
                raise RefusedError(f"a session has at most {m.MAX_STREAMS} data connections at one time")
            if stream in self._claimed:
                return False
            if probe and (self._engine is not None or self._joined):
                return False
            self._claimed.add(stream)
            self._joined += 1
            if probe:
                return True
            self._idle.wait_for(lambda: self._engine is not None or self.ended.is_set(), OVERTAKEN)
            joins = self._engine is not None
            self._joined -= not joins
            return joins

    def release(self) -> None:
        """A stream that was claimed has ended."""
        with self._lock:
            self._joined -= 1

    def interrupt(self, why: DwcpError) -> None:
        """Ends the transfer, if there is one, and the session."""
        engine = self._engine
        if engine is None:
            self._channel.link.shutdown()
            return
        engine.tell_and_abort(why)
        shutdown_later(self._channel.link)

    def serve(self) -> None:
        """Answers requests until the peer leaves."""
        try:
            with Heartbeat(self._channel, self._node.config.transport.read_timeout):
                self._requests()
        except EOFError:
            self._lost(Interrupted("the peer ended the session"))
        except DwcpError as error:
            self._lost(error)
        finally:
            self.ended.set()

    def _lost(self, error: DwcpError) -> None:
        if self.busy:
            log.warning("a session broke off", peer=self.peer, reason=str(error))
        if self._engine is None and not isinstance(error, TemporaryError | Interrupted):
            try:
                self._channel.send(m.Error(code=error.code, message=str(error)))
            except DwcpError as gone:
                log.debug("the peer could not be told", reason=str(gone))

    def _requests(self) -> None:
        while True:
            message, body = self._channel.receive()
            match message:
                case m.Ping(token=token):
                    if token:
                        self._channel.send(m.Pong(token=token))
                case m.Bye():
                    return
                case m.List():
                    self._answer(partial(self._list, message))
                case m.Read():
                    self._answer(partial(self._read, message))
                case m.Keep() | m.Versions() | m.Check():
                    self._answer(partial(self._about_versions, message))
                case m.Order() | m.OrderStatus():
                    self._answer(partial(self._about_orders, message))
                case m.Sync():
                    self._answer(partial(self._synchronise, message))
                case m.Open():
                    self._transfer(message)
                    return
                case _:
                    raise ProtocolError(
                        f"a session got a {type(message).__name__} where a request belongs ({len(body)})"
                    )

    def _answer(self, request: Callable[[], None]) -> None:
        """A request that fails is answered with its error; the session goes on."""
        try:
            request()
        except DwcpError as error:
            self._channel.send(m.Error(code=error.code, message=str(error)))

    def _about_versions(self, request: m.Keep | m.Versions | m.Check) -> None:
        root, target = self._locate(request.path, write=not isinstance(request, m.Versions))
        ticket: Ticket | Unfenced = UNFENCED
        try:
            if not isinstance(request, m.Versions):
                ticket = self._admit(request.fence, request.path)
            with ticket.held() if isinstance(request, m.Keep) else nullcontext():
                answer_about_versions(request, root, target, self._channel, self.peer)
        finally:
            ticket.close()
            root.close()

    def _admit(self, fence: m.Fence | None, path: bytes) -> Ticket | Unfenced:
        """Raises FencedError for a former owner, RefusedError for whom this node's own declaration of the workload does
        not name."""
        if fence is None:
            return UNFENCED
        config = self._node.config
        declared = config.workloads.get(fence.workload.rpartition("/")[2])
        if declared is not None and declared.owners and self.peer not in declared.owners:
            raise RefusedError(f"{self.peer} is not among the owners of {fence.workload} that this node knows")
        name, _, below = os.fsdecode(path).partition("/")
        local = str(Path(config.storage.exports[name].path) / below)
        return self._node.fences.admit(fence, self.peer, local, self.interrupt)

    def _synchronise(self, request: m.Sync) -> None:
        sync = self._node.sync
        if sync is None:
            raise RefusedError(f"node {self._node.identity.node_name!r} does not synchronise now (sync.enabled)")
        self._channel.send(m.Synced(content=sync.answer(self.peer, self.peer_key, request.content)))

    def _about_orders(self, request: m.Order | m.OrderStatus) -> None:
        orders = self._node.orders
        if orders is None:
            raise RefusedError(f"node {self._node.identity.node_name!r} takes no orders: no manager runs there")
        if isinstance(request, m.Order):
            self._channel.send(orders.take(self.peer, request))
        else:
            self._channel.send(orders.look(self.peer, request.job))

    # -- transfers -----------------------------------------------------------------------------------------------------

    def _transfer(self, request: m.Open) -> None:
        self.key = (self.peer, request.direction, request.path)
        self._supersede(self)
        self._span = tracing.begin_served(self._node.telemetry, request, self.peer)
        with self._span.active():
            self._carry_out(request)

    def _carry_out(self, request: m.Open) -> None:
        role = Role.RECEIVE if request.direction == "put" else Role.SEND
        board, meter = self._node.board, self._meter
        try:
            if self._node.rdma.required and RDMA not in self.features:
                raise RefusedError(f"{self._node.identity.node_name!r} takes blocks over RDMA only, {REQUIRED}")
            engine = self._receiver(request) if role is Role.RECEIVE else self._sender(request)
        except DwcpError as error:
            log.warning("a transfer was refused", peer=self.peer, path=display(request.path), reason=str(error))
            self._span.end({}, str(error))
            self._channel.send(m.Error(code=error.code, message=str(error)))
            part(self._channel)
            return
        with self._lock:
            self._engine = engine
            self._idle.notify_all()
        meter.add(self._channel.link)

        def read(status: TransferStatus) -> TransferStatus:
            return replace(
                engine.progress.fill(status),
                streams=engine.active_streams,
                wire_bytes=sum(meter.read()),
                paused=engine.paused,
            )

        status = TransferStatus(request.transfer, role, self.peer, os.fsdecode(request.path))
        name = board.begin(status, read, lambda: self.interrupt(Interrupted("cancelled here")), engine.pause)
        log.info("transfer begins", transfer=name, role=role, peer=self.peer, path=display(request.path))
        try:
            self._channel.send(m.Opened())
            engine.start()
            self._control(engine)
        except EOFError:
            engine.abort(Interrupted("the peer ended the session"))
            raise
        except DwcpError as error:
            engine.tell_and_abort(error)
            raise
        finally:
            self._end_streams()
            engine.close()
            self._ticket.close()
            if self._source is not None:
                self._source.close()
            state, text = _outcome(engine)
            meter.remove(self._channel.link)
            tracing.end(self._span, board.end(name, state, text))
            log.info("transfer ended", transfer=name, state=state, reason=text)

    def _control(self, engine: Sender | Receiver) -> None:
        parting: threading.Timer | None = None
        try:
            while self._hear(engine):
                if engine.finished.is_set() and parting is None:
                    # parts stay locked until the session ends: however lively the peer is, it has to go
                    parting = shutdown_later(self._channel.link)
        finally:
            if parting is not None:
                parting.cancel()

    def _hear(self, engine: Sender | Receiver) -> bool:
        """One message for the transfer; false when the peer has left. Raises EOFError where that is too early."""
        try:
            message, body = self._channel.receive()
        except EOFError:
            if engine.finished.is_set():
                return False
            raise
        if isinstance(message, m.Bye):
            # a receiver's FINISHED can be answered before its own thread has noted the end
            if not engine.finished.wait(PARTING):
                raise EOFError
            return False
        if not isinstance(message, m.Ping) and not engine.finished.is_set():
            engine.handle(message, body)
            if engine.finished.is_set():
                # the peer may wait for a word: its own end of the transfer was reached before ours
                self._channel.send(m.Bye())
        return True

    def run_stream(self, number: int, channel: Channel) -> None:
        """A data connection of this session, in its own thread."""
        engine = self._engine
        if engine is None:
            raise ProtocolError("a data connection came before its transfer")
        with self._span.active():
            span = tracing.begin_stream(self._node.telemetry, number, self.peer)
        with span.active():
            self._carry(engine, number, channel, span)

    def _carry(self, engine: Sender | Receiver, number: int, channel: Channel, span: Span) -> None:
        reason = ""
        with self._lock:
            self._streams[number] = channel
        self._meter.add(channel.link)
        self._node.watch(channel.link, sends=isinstance(engine, Sender))
        link, rdma = channel.link, self._node.rdma
        try:
            engine.run_stream(number, channel)
            if isinstance(link, UcxLink):
                rdma.succeeded(self.peer)
        except DwcpError as error:
            if isinstance(link, UcxLink) and not link.peer_has_left and not engine.finished.is_set():
                self._node.tally.add("rdma_failures")
                rdma.failed(self.peer, str(error))
            if not engine.finished.is_set():
                reason = str(error)
                log.info("a stream ended", stream=number, peer=self.peer, reason=reason)
            if isinstance(engine, Sender):
                engine.stream_lost(number)
        finally:
            tracing.end_stream(span, channel.link, reason)
            self._meter.remove(channel.link)
            self._node.unwatch(channel.link)
            with self._lock:
                del self._streams[number]
                self._idle.notify_all()

    def _end_streams(self) -> None:
        """Waits until no stream works on the transfer any more."""
        with self._lock:
            for channel in self._streams.values():
                channel.link.shutdown()
            self._idle.wait_for(lambda: not self._streams)

    def _receiver(self, request: m.Open) -> Receiver:
        root, target = self._locate(request.path, write=True)
        try:
            if not (request.tree or TreeOptions()).dry_run:
                self._ticket = self._admit(request.fence, request.path)
        except DwcpError:
            root.close()
            raise
        name = request.path.partition(b"/")[0]
        privileged = self._node.config.storage.exports[os.fsdecode(name)].privileged
        try:
            return Receiver(
                root,
                target,
                self._channel,
                checksum=request.checksum,
                delete=request.delete,
                delta=request.delta and self._node.config.compression.enable_delta_encoding,
                least_leaf=1 << request.leaf_log,
                pool=self._node.pool,
                tally=self._node.tally,
                dictionaries=self._node.taken_dictionaries(self.peer),
                tree=request.tree or TreeOptions(),
                tell=lambda changes: self._channel.send(m.Changes(changes=changes)),
                unprivileged="" if privileged else f"export {display(name)} is not privileged (storage.exports)",
                ticket=self._ticket,
                pauses=PAUSE in self.features,
            )
        except DwcpError:
            root.close()
            self._ticket.close()
            raise

    def _sender(self, request: m.Open) -> Sender:
        root, target = self._locate(request.path, write=False)
        if request.version is not None:
            root, target = open_version(root, target, request.version), ()
        try:
            root.stat(target)
        except OSError as error:
            root.close()
            raise failure(error, f"cannot send from {self._node.identity.node_name}", request.path) from error
        self._source = TreeSource(root, target, request.tree or TreeOptions())
        kept = None
        if SEGMENT in self.features:
            kept = self._node.kept_copies(self.peer, b"get " + request.path, self.round_trip_seconds())
        return Sender(
            self._source,
            self._channel,
            checksum=request.checksum,
            least_leaf=1 << request.leaf_log,
            compression=Compression.of(self._node.config),
            pool=self._node.pool,
            tally=self._node.tally,
            idle_seconds=self._node.config.transport.read_timeout / LIVELY,
            tree=request.tree or TreeOptions(),
            kept=kept,
            trained=self._node.trained(self.peer, b"get " + request.path) if DICTIONARY in self.features else None,
            pauses=PAUSE in self.features,
        )

    @property
    def _exports(self) -> dict[str, Export]:
        return self._node.config.storage.exports

    def _locate(self, path: bytes, *, write: bool) -> tuple[Root, Parts]:
        """The export's root, opened, and the path below it. Raises NotFoundError, RefusedError or StorageError."""
        name, _, rest = path.partition(b"/")
        exports = self._exports
        export = exports.get(os.fsdecode(name))
        if export is None:
            raise NotFoundError(
                f"node {self._node.identity.node_name!r} has no export {display(name)}; it has: "
                f"{', '.join(sorted(exports)) or 'none'}"
            )
        if write and export.read_only:
            raise RefusedError(f"export {display(name)} of node {self._node.identity.node_name!r} is read-only")
        parts = check_relative(rest)
        return Root(Path(export.path)), parts

    def _list(self, request: m.List) -> None:
        if not request.path:
            self._tell([m.ListEntry(os.fsencode(name), "export", 0, 0, 0, b"") for name in sorted(self._exports)])
            return
        path = request.path.rstrip(b"/")
        root, parts = self._locate(path, write=False)
        try:
            self._tell([itself(root, parts, path)] if request.itself else listing(root, parts, path))
        finally:
            root.close()

    def _tell(self, entries: Iterable[m.ListEntry]) -> None:
        batch: list[m.ListEntry] = []
        size = 0
        for entry in entries:
            batch.append(entry)
            size += len(entry.name) + len(entry.link) + 64
            if len(batch) == m.MAX_ENTRIES or size >= ENTRY_BYTES:
                self._channel.send(m.Listing(entries=batch, more=True))
                batch, size = [], 0
        self._channel.send(m.Listing(entries=batch))

    def _read(self, request: m.Read) -> None:
        if self._node.rdma.required:
            raise RefusedError(f"{self._node.identity.node_name!r} gives content over RDMA only, {REQUIRED}")
        root, parts = self._locate(request.path, write=False)
        try:
            answer, body = read_range(root, parts, request)
        finally:
            root.close()
        # it is payload, and counts for the node's rate while it is sent
        pacer, link = self._node.pacer, self._channel.link
        pacer.add(link)
        try:
            self._channel.send(answer, body)
        finally:
            pacer.remove(link)


def _outcome(engine: Sender | Receiver) -> tuple[State, str]:
    if isinstance(engine.error, Interrupted):
        return State.CANCELLED, str(engine.error)
    if engine.error is not None:
        return State.FAILED, str(engine.error)
    if engine.progress.errors:
        return State.FAILED, f"{engine.progress.failures} files failed; the first: {engine.progress.errors[0]}"
    return State.DONE, ""
