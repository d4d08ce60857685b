"""One transfer as its initiator drives it: a session, as many streams as pay, and another try when the link breaks.

A retry is the whole procedure again. What had arrived is found at the receiver, by name, size and time for finished
files and by journal for unfinished ones, so nothing is sent twice but what was under way.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from dwcp.errors import DwcpError, Interrupted, PartialError, ProtocolError, TemporaryError, UnreachableError, from_code
from dwcp.files.root import Parts, Root
from dwcp.transfer.board import Role, State, TransferStatus
from dwcp.transfer.channel import Channel, Meter
from dwcp.transfer.node import Node
from dwcp.transfer.receiver import Receiver
from dwcp.transfer.sender import Sender
from dwcp.transfer.session import LIVELY, PARTING, Dialled, Heartbeat, dial_session, dial_stream, shutdown_later
from dwcp.transfer.settings import Compression
from dwcp.transfer.source import Source
from dwcp.tuning.streams import StreamTuner
from dwcp.wire import messages as m

LOOK = 0.02
"""Seconds between looks at whether more streams would find work: under one round trip of the links this is made for."""
FIRST_RETRY = 0.5
"""Seconds before the first new session; doubles up to MAX_RETRY while nothing moves, with jitter of half."""
MAX_RETRY = 8.0
STREAM_FAILURES = 5
"""Data connections that may fail in a row before the session is given up."""
PROGRESS_EVERY = 0.2
"""Seconds between two reports of progress."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class TransferResult:
    """How a transfer ended. `bytes` of content in `files`; `wire_bytes` as in TransferStatus."""

    files: int
    bytes: int
    wire_bytes: int
    seconds: float
    verified: bool
    unchanged: int
    """Files that were there already."""
    deleted: int
    streams: int
    """The most that were in use at once."""
    sockets: dict[str, str] = field(default_factory=dict)
    """What the control connection's socket was really given."""
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done. `path` is EXPORT/PATH at the peer; one of `source` (to put) and `destination` (to get)."""

    peer: str
    address: str
    fingerprint: str
    path: bytes
    delete: bool
    checksum: str
    source: Source | None = None
    destination: tuple[Path, Parts] | None = None
    """A directory, and the name below it."""

    @property
    def direction(self) -> str:
        return "put" if self.source is not None else "get"


class Outbound:
    """Runs one order to its end; `run` blocks, `cancel` may come from any thread."""

    def __init__(self, node: Node, order: Order, on_progress: Callable[[TransferStatus], None] | None = None) -> None:
        self.id = uuid.uuid4().hex[:16]
        self._node = node
        self._order = order
        self._on_progress = on_progress
        self._meter = Meter()
        self._engine: Sender | Receiver | None = None
        self._control: Channel | None = None
        self._cancelled = threading.Event()
        self._lock = threading.Lock()
        self._channels: dict[int, Channel] = {}
        self._live_streams = 0
        self._most_streams = 0
        self._stream_failures = 0
        self._began = time.monotonic()
        self._sockets: dict[str, str] = {}
        self._warnings: list[str] = []

    def cancel(self) -> None:
        """Ends the transfer soon; `run` raises Interrupted. What had arrived is kept for the next try."""
        self._cancelled.set()
        engine, control = self._engine, self._control
        if engine is not None:
            engine.tell_and_abort(Interrupted("cancelled"))
        if control is not None:
            shutdown_later(control.link)

    def run(self) -> TransferResult:
        """Raises what the transfer failed with; PartialError when some files failed and the others did not."""
        order, board = self._order, self._node.board
        role = Role.SEND if order.direction == "put" else Role.RECEIVE
        board.begin(TransferStatus(self.id, role, order.peer, os.fsdecode(order.path)), self.status, self.cancel)
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
            board.end(self.id, state, text)
        return result

    def status(self, status: TransferStatus) -> TransferStatus:
        """`status` with the counts of now."""
        engine = self._engine
        if engine is not None:
            status = engine.progress.fill(status)
        seconds = time.monotonic() - self._began
        return replace(status, streams=self._live_streams, wire_bytes=sum(self._meter.read()), seconds=seconds)

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
        while True:
            try:
                session = dial_session(self._node, self._order.address, self._order.fingerprint)
                connected = True
                return self._attempt(session)
            except TemporaryError as error:
                settled = self._engine.progress.bytes_done if self._engine is not None else 0
                now = time.monotonic()
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

    def _attempt(self, session: Dialled) -> TransferResult:
        self._sockets = dict(session.effective.settings)
        self._warnings = list(session.effective.warnings)
        control = self._control = session.channel
        self._meter.add(control.link)
        self._node.watch(control.link, sends=False)
        try:
            self._open(control)
            engine = self._engine = self._new_engine(control)
            try:
                with Heartbeat(control, self._node.config.transport.read_timeout):
                    engine.start()
                    self._drive(engine, session)
            finally:
                engine.close()
        finally:
            self._meter.remove(control.link)
            self._node.unwatch(control.link)
            control.link.close()
        if engine.error is not None:
            raise engine.error
        return self._result(engine)

    def _open(self, control: Channel) -> None:
        order = self._order
        request = m.Open(
            transfer=self.id,
            direction=order.direction,
            path=order.path,
            delete=order.delete,
            checksum=order.checksum,
            delta=self._node.config.compression.enable_delta_encoding,
        )
        control.send(request)
        while True:
            try:
                answer, _ = control.receive()
            except EOFError as error:
                raise UnreachableError(f"{self._order.peer} closed the session before the transfer began") from error
            if isinstance(answer, m.Opened):
                return
            if isinstance(answer, m.Error):
                raise from_code(answer.code, f"{self._order.peer}: {answer.message}")
            if not isinstance(answer, m.Ping):
                raise ProtocolError(f"{self._order.peer} answers an OPEN with a {type(answer).__name__}")

    def _new_engine(self, control: Channel) -> Sender | Receiver:
        order, node = self._order, self._node
        if order.source is not None:
            return Sender(
                order.source,
                control,
                checksum=order.checksum,
                compression=Compression.of(node.config),
                pool=node.pool,
                tally=node.tally,
                idle_seconds=node.config.transport.read_timeout / LIVELY,
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
            pool=node.pool,
            tally=node.tally,
        )

    def _drive(self, engine: Sender | Receiver, session: Dialled) -> None:
        """Feeds the engine from the control connection until it has finished, while another thread keeps streams."""
        control = session.channel
        keeper = threading.Thread(target=self._keep_streams, args=(engine, session), name="dwcp-streams", daemon=True)
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
            keeper.join()

    # -- streams -------------------------------------------------------------------------------------------------------

    def _keep_streams(self, engine: Sender | Receiver, session: Dialled) -> None:
        transport = self._node.config.transport
        tuner = StreamTuner(
            transport.min_streams,
            transport.max_streams,
            transport.initial_streams,
            transport.stream_scaling_factor,
            time.monotonic(),
        )
        threads: list[threading.Thread] = []
        number = 0
        self._stream_failures = 0
        first_wait = 0.0
        while not engine.finished.wait(first_wait):
            first_wait = LOOK
            decision = tuner.observe(time.monotonic(), sum(self._meter.read()))
            if decision is not None:
                log.info("stream count changes", streams=decision.streams, reason=decision.reason)
                engine.limit_streams(decision.streams)
            wanted = min(tuner.streams - self._live_streams, max(engine.backlog(), int(not number)))
            for _ in range(wanted):
                with self._lock:
                    self._live_streams += 1
                    self._most_streams = max(self._most_streams, self._live_streams)
                thread = threading.Thread(
                    target=self._stream, args=(engine, session, number), name=f"dwcp-stream-{number}", daemon=True
                )
                number += 1
                threads.append(thread)
                thread.start()
            threads = [thread for thread in threads if thread.is_alive()]
        self._end_streams(threads, PARTING if engine.error is None else 0.0)

    def _end_streams(self, threads: list[threading.Thread], grace: float) -> None:
        """They end by themselves when all went well; the others are cut."""
        deadline = time.monotonic() + grace
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            for channel in self._channels.values():
                channel.link.shutdown()
        for thread in threads:
            thread.join()

    def _stream(self, engine: Sender | Receiver, session: Dialled, number: int) -> None:
        try:
            channel = dial_stream(self._node, self._order.address, session, number)
        except DwcpError as error:
            self._stream_failed(engine, error)
            return
        link = channel.link
        self._meter.add(link)
        self._node.watch(link, sends=isinstance(engine, Sender))
        with self._lock:
            self._channels[number] = channel
        try:
            engine.run_stream(number, channel)
            self._stream_failures = 0
        except DwcpError as error:
            if isinstance(engine, Sender):
                engine.stream_lost(number)
            if not engine.finished.is_set():
                log.warning("a stream broke and is replaced", stream=number, reason=str(error))
        finally:
            self._meter.remove(link)
            self._node.unwatch(link)
            with self._lock:
                self._live_streams -= 1
                del self._channels[number]
            link.close()

    def _stream_failed(self, engine: Sender | Receiver, error: DwcpError) -> None:
        with self._lock:
            self._live_streams -= 1
            self._stream_failures += 1
            failures = self._stream_failures
        if failures >= STREAM_FAILURES and not engine.finished.is_set():
            engine.abort(error if isinstance(error, TemporaryError) else UnreachableError(str(error)))
            if self._control is not None:
                self._control.link.shutdown()

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
            warnings=self._warnings,
            errors=list(engine.progress.errors),
        )
        if result.errors:
            first = "; ".join(result.errors[:3])
            text = f"{engine.progress.failures} names failed, {result.files} arrived and are verified: {first}"
            raise PartialError(text, result)
        return result
