"""One transfer as its initiator drives it: a session, as many streams as pay, and another try when the link breaks.

A retry is the whole procedure again. What had arrived is found at the receiver, by name, size and time for finished
files and by journal for unfinished ones, so nothing is sent twice but what was under way.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from dwcp.errors import DwcpError, Interrupted, PartialError, ProtocolError, TemporaryError, UnreachableError, from_code
from dwcp.files.root import Parts, Root
from dwcp.hde.hashes import XXH3
from dwcp.store.path_memory import PathMemory, recall
from dwcp.telemetry import NO_SPAN, Span
from dwcp.transfer import tracing
from dwcp.transfer.ahead import worth_beginning
from dwcp.transfer.board import Role, State, TransferStatus
from dwcp.transfer.channel import Channel, Meter
from dwcp.transfer.foresight import Foresight
from dwcp.transfer.node import Node
from dwcp.transfer.rdma import REQUIRED
from dwcp.transfer.receiver import Receiver
from dwcp.transfer.result import TransferResult
from dwcp.transfer.sender import Sender
from dwcp.transfer.session import LIVELY, PARTING, Dialled, Heartbeat, shutdown_later
from dwcp.transfer.settings import Compression
from dwcp.transfer.source import Source
from dwcp.transfer.streams import StreamKeeper
from dwcp.tuning.leaves import USUAL_LOG, leaf_log
from dwcp.wire import messages as m
from dwcp.wire.handshake import (
    DICTIONARY,
    FENCES,
    PAUSE,
    SEGMENT,
    TRACES,
)
from dwcp.wire.tree import Change, TreeOptions

FIRST_RETRY = 0.5
"""Seconds before the first new session; doubles up to MAX_RETRY while nothing moves, with jitter of half."""
MAX_RETRY = 8.0
MOVING_SOURCE = 2
"""Times that a transfer is done again where all that failed are files that changed while they were read."""
PROGRESS_EVERY = 0.2
"""Seconds between two reports of progress."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done. `path` is EXPORT/PATH at the peer; one of `source` (to put) and `destination` (to get)."""

    peer: str
    address: str
    fingerprint: str
    path: bytes
    delete: bool
    checksum: str
    tree: TreeOptions
    on_change: Callable[[Change], None] | None
    source: Source | None = None
    destination: tuple[Path, Parts] | None = None
    """A directory, and the name below it."""
    version: str | None = None
    """To get a version instead of what is there now; see `m.Open`."""
    fence: m.Fence | None = None

    @property
    def direction(self) -> str:
        return "put" if self.source is not None else "get"


class Outbound:
    """Runs one order to its end; `run` blocks, `cancel` may come from any thread."""

    def __init__(
        self,
        node: Node,
        order: Order,
        on_progress: Callable[[TransferStatus], None] | None = None,
        session: Dialled | None = None,
    ) -> None:
        """`session`: an unused one with the peer, for the first try; without, it is dialled."""
        self.id = uuid.uuid4().hex[:16]
        self._session = session
        self._node = node
        self._order = order
        self._on_progress = on_progress
        self._meter = Meter()
        self._engine: Sender | Receiver | None = None
        self._control: Channel | None = None
        self._cancelled = threading.Event()
        self._pausing = threading.Lock()
        self._paused_until = 0.0
        """Monotonic; when a session ended in a pause, in which nothing could move."""
        self._streams: StreamKeeper | None = None
        self._most_streams = 0
        self._memory: PathMemory | None = None
        self._foresight = Foresight(node.config, order.peer) if order.source is not None else None
        self._began = time.monotonic()
        self._sockets: dict[str, str] = {}
        self._warnings: list[str] = []
        self._span: Span = NO_SPAN

    def cancel(self) -> None:
        """Ends the transfer soon; `run` raises Interrupted. What had arrived is kept for the next try."""
        self._cancelled.set()
        engine, control = self._engine, self._control
        if engine is not None:
            engine.tell_and_abort(Interrupted("cancelled"))
        if control is not None:
            shutdown_later(control.link)

    def pause(self, paused: bool) -> None:
        """Pauses the transfer, or lets it go on, over however many sessions. Raises as `Engine.pause`; TemporaryError
        before the first one."""
        with self._pausing:
            if self._engine is None:
                raise TemporaryError(f"{self._order.peer} is not connected yet; try again when it is")
            self._engine.pause(paused)

    def run(self) -> TransferResult:
        """Raises what the transfer failed with; PartialError when some files failed and the others did not."""
        order = self._order
        self._span = tracing.begin_initiated(self._node.telemetry, self.id, order.direction, order.peer, order.path)
        with self._span.active():
            return self._run()

    def _run(self) -> TransferResult:
        order, board = self._order, self._node.board
        role = Role.SEND if order.direction == "put" else Role.RECEIVE
        status = TransferStatus(self.id, role, order.peer, os.fsdecode(order.path))
        board.begin(status, self.status, self.cancel, self.pause)
        state, text = State.FAILED, ""
        done = threading.Event()
        reporter = threading.Thread(target=self._report, args=(done,), name="dwcp-progress", daemon=True)
        reporter.start()
        try:
            result = self._with_retries()
            state = State.FAILED if result.errors else State.DONE
        except Interrupted as error:
            state, text = State.CANCELLED, str(error)
            raise
        except DwcpError as error:
            text = str(error)
            raise
        finally:
            done.set()
            reporter.join()
            tracing.end(self._span, board.end(self.id, state, text))
            if self._foresight is not None:
                self._foresight.close()
        return result

    def status(self, status: TransferStatus) -> TransferStatus:
        """`status` with the counts of now."""
        engine = self._engine
        if engine is not None:
            status = engine.progress.fill(status)
        seconds = time.monotonic() - self._began
        return replace(
            status,
            streams=self._streams.live if self._streams is not None else 0,
            wire_bytes=sum(self._meter.read()),
            paused=engine is not None and engine.paused,
            seconds=seconds,
            foreseen=self._foresight.rates() if self._foresight is not None else None,
        )

    def _report(self, done: threading.Event) -> None:
        if self._on_progress is None:
            return
        while not done.wait(PROGRESS_EVERY):
            self._on_progress(self._node.board.get(self.id))

    # -- sessions ------------------------------------------------------------------------------------------------------

    def _with_retries(self) -> TransferResult:
        patience = self._node.config.transport.read_timeout
        pause, moved, last_move = FIRST_RETRY, -1, time.monotonic()
        connected = False
        changed = 0
        while True:
            try:
                session, self._session = self._session, None
                session = session or self._dial(again=connected)
                connected = True
                return self._attempt(session)
            except PartialError as error:
                progress = self._engine.progress if self._engine is not None else None
                if progress is None or progress.passing < progress.failures or changed >= MOVING_SOURCE:
                    raise
                changed += 1
                log.warning("what changed while it was read is read again", reason=str(error))
            except TemporaryError as error:
                settled = self._engine.progress.bytes_done if self._engine is not None else 0
                now = time.monotonic()
                last_move = max(last_move, self._paused_until)
                if settled != moved:
                    pause, moved, last_move = FIRST_RETRY, settled, now
                if self._cancelled.is_set():
                    raise Interrupted("cancelled") from error
                if not connected or now - last_move > patience:
                    raise
                # not a secret: it only keeps many nodes from coming back in step
                wait = pause * random.uniform(0.5, 1.0)  # noqa: S311
                log.warning("the transfer broke off and is tried again", reason=str(error), seconds=round(wait, 1))
                pause = min(MAX_RETRY, pause * 2)
                if self._cancelled.wait(wait):
                    raise Interrupted("cancelled") from error

    def _dial(self, *, again: bool) -> Dialled:
        order, ahead = self._order, worth_beginning(self._node.config, None)
        try:
            return tracing.connect(self._node, order.peer, order.address, order.fingerprint, ahead)
        except ProtocolError as error:
            if not again:
                raise
            # it spoke the protocol a moment ago: what one of us got was changed on the way
            raise UnreachableError(str(error)) from error

    def _attempt(self, session: Dialled) -> TransferResult:
        self._sockets = dict(session.effective.settings)
        self._warnings = list(session.effective.warnings)
        control = self._control = session.channel
        self._meter.add(control.link)
        self._node.watch(control.link, sends=False)
        try:
            least_leaf = self._open(session)
            if self._order.source is None:
                # nothing is made here before the peer has agreed; a sender need not wait for that, see `_drive`
                self._await_opened(session)
            engine = self._new_engine(session, least_leaf)
            try:
                with Heartbeat(control, self._node.config.transport.read_timeout):
                    self._take_over(engine)
                    engine.start()
                    self._drive(engine, session)
            finally:
                if engine.paused:
                    self._paused_until = time.monotonic()
                engine.close()
        finally:
            session.end()
            self._meter.remove(control.link)
            self._node.unwatch(control.link)
            control.link.close()
        if engine.error is not None:
            raise engine.error
        return self._result(engine)

    def _take_over(self, engine: Sender | Receiver) -> None:
        """A pause outlives the session that it began in."""
        with self._pausing:
            before, self._engine = self._engine, engine
            if before is not None and before.paused:
                engine.pause(True)

    def _open(self, session: Dialled) -> int:
        """Asks for the transfer; the least leaf size in bytes that it was asked with."""
        order, control, config = self._order, session.channel, self._node.config
        if order.checksum != XXH3.name and order.checksum not in session.features:
            raise DwcpError(f"{order.peer} cannot verify with {order.checksum}; leave the checksum out, or upgrade it")
        if "trees" not in session.features and order.tree != TreeOptions():
            raise DwcpError(
                f"{order.peer} is older than what was asked for: it keeps names, content, permissions and times, and "
                f"knows neither filters nor dry runs; leave the options out, or upgrade it"
            )
        rdma = self._node.rdma
        if rdma.required and not session.rdma:
            raise DwcpError(f"{rdma.problem() or f'{order.peer} does not offer RDMA'}, {REQUIRED}")
        known = recall(Path(config.storage.state_dir), order.peer, config.transport.congestion_algorithm)
        if known is not None and self._foresight is not None:
            known = self._foresight.adapt(known)
        self._memory = known
        leaf = USUAL_LOG
        if "leaf" in session.features:
            leaf = leaf_log(
                control.link.round_trip_seconds() or 0.0,
                known.rate if known is not None else None,
                known.streams if known is not None else config.transport.initial_streams,
            )
        request = m.Open(
            transfer=self.id,
            direction=order.direction,
            path=order.path,
            delete=order.delete,
            checksum=order.checksum,
            delta=config.compression.enable_delta_encoding,
            leaf_log=leaf,
            tree=order.tree if "trees" in session.features else None,
            version=order.version,
            traceparent=self._span.traceparent if TRACES in session.features else None,
            fence=order.fence if FENCES in session.features else None,
        )
        control.send(request)
        return 1 << leaf

    def _await_opened(self, session: Dialled) -> None:
        while True:
            try:
                answer, _ = session.channel.receive()
            except EOFError as error:
                raise UnreachableError(f"{self._order.peer} closed the session before the transfer began") from error
            if self._is_opened(session, answer):
                return

    def _is_opened(self, session: Dialled, answer: m.Message) -> bool:
        """Whether the peer says that the transfer may go on; False for what comes before that. Raises its no."""
        match answer:
            case m.Opened():
                return True
            case m.Welcome():
                session.admit(answer)
            case m.Error():
                raise from_code(answer.code, f"{self._order.peer}: {answer.message}")
            case m.Ping():
                pass
            case _:
                raise ProtocolError(f"{self._order.peer} answers an OPEN with a {type(answer).__name__}")
        return False

    def _new_engine(self, session: Dialled, least_leaf: int) -> Sender | Receiver:
        order, node, control = self._order, self._node, session.channel
        if order.source is not None:
            kept = None
            if SEGMENT in session.features:
                kept = node.kept_copies(order.peer, b"put " + order.path, control.link.round_trip_seconds())
            trained = node.trained(order.peer, b"put " + order.path) if DICTIONARY in session.features else None
            return Sender(
                order.source,
                control,
                checksum=order.checksum,
                compression=Compression.of(node.config),
                least_leaf=least_leaf,
                pool=node.pool,
                tally=node.tally,
                idle_seconds=node.config.transport.read_timeout / LIVELY,
                tree=order.tree,
                tell=self._tell,
                kept=kept,
                trained=trained,
                pauses=PAUSE in session.features,
            )
        if order.destination is None:
            raise DwcpError("an order needs a source or a destination")
        directory, target = order.destination
        return Receiver(
            Root(directory),
            target,
            control,
            checksum=order.checksum,
            delete=order.delete,
            delta=node.config.compression.enable_delta_encoding,
            least_leaf=least_leaf,
            pool=node.pool,
            tally=node.tally,
            dictionaries=node.taken_dictionaries(order.peer),
            tree=order.tree,
            tell=self._tell,
            pauses=PAUSE in session.features,
        )

    def _tell(self, changes: list[Change]) -> None:
        if self._order.on_change is not None:
            for change in changes:
                self._order.on_change(change)

    def _drive(self, engine: Sender | Receiver, session: Dialled) -> None:
        """Feeds the engine from the control connection until it has finished, while another thread keeps streams."""
        control = session.channel
        opened = isinstance(engine, Receiver)
        order = self._order
        streams = StreamKeeper(self._node, order.address, order.peer, engine, session, self._meter, self._memory)
        self._streams = streams
        keeper = threading.Thread(
            target=contextvars.copy_context().run, args=(streams.run,), name="dwcp-streams", daemon=True
        )
        keeper.start()
        try:
            if self._cancelled.is_set():
                engine.tell_and_abort(Interrupted("cancelled"))
            while not engine.finished.is_set():
                message, body = control.receive()
                if isinstance(message, m.Bye):
                    # a receiver's FINISHED can be answered before its own thread has noted the end
                    if not engine.finished.wait(PARTING):
                        raise EOFError
                elif not opened:
                    opened = self._is_opened(session, message)
                elif not isinstance(message, m.Ping):
                    engine.handle(message, body)
            with contextlib.suppress(TemporaryError):
                # the transfer has ended either way; the peer may have left already
                control.send(m.Bye())
        except EOFError:
            engine.abort(UnreachableError(f"{self._order.peer} closed the session before the transfer was done"))
        except TemporaryError as error:
            engine.abort(error)
        except DwcpError as error:
            engine.tell_and_abort(error)
        finally:
            session.end()
            keeper.join()
            self._most_streams = max(self._most_streams, streams.most)

    def _result(self, engine: Sender | Receiver) -> TransferResult:
        final = engine.progress.fill(TransferStatus("", Role.SEND, "", ""))
        result = TransferResult(
            files=final.files_done,
            bytes=final.bytes_done,
            wire_bytes=sum(self._meter.read()),
            seconds=time.monotonic() - self._began,
            verified=engine.verified,
            unchanged=engine.progress.unchanged,
            deleted=engine.progress.deleted,
            streams=self._most_streams,
            sockets=self._sockets,
            warnings=[*self._warnings, *engine.progress.notes],
            errors=list(engine.progress.errors),
        )
        if result.errors:
            first = "; ".join(result.errors[:3])
            text = f"{engine.progress.failures} names failed, {result.files} arrived and are verified: {first}"
            raise PartialError(text, result)
        return result
