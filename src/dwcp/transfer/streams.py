"""Keeps as many data connections as pay for one transfer, replaces those that break, and gives them their pace."""

from __future__ import annotations

import contextlib
import contextvars
import statistics
import threading
import time
from collections.abc import Set
from pathlib import Path

import structlog

from dwcp.errors import DwcpError, TemporaryError, UnreachableError
from dwcp.forecast.sampling import Counts, Sampler, Stretch
from dwcp.links.interface import Delivery
from dwcp.links.sockopts import MODEL_BASED
from dwcp.links.ucx import UcxEnd, UcxLink
from dwcp.store import links
from dwcp.store.path_memory import PathMemory, remember
from dwcp.telemetry import Span
from dwcp.transfer import tracing
from dwcp.transfer.channel import Channel, Meter
from dwcp.transfer.node import Node
from dwcp.transfer.receiver import Receiver
from dwcp.transfer.sender import Sender
from dwcp.transfer.session import DIALS_AT_ONCE, PARTING, Dialled, confirm_stream, dial_stream, dial_stream_over_rdma
from dwcp.tuning.leaves import FAR
from dwcp.tuning.rate import RateLimit
from dwcp.tuning.streams import Sample, StreamTuner
from dwcp.tuning.turns import Turns

LOOK = 0.02
"""Seconds between looks at whether more streams would find work: under one round trip of the links this is made for."""
FAILURES = 5
"""Connections that may fail in a row before the session is given up."""
RDMA_STREAMS = 8
"""Streams of a transfer over RDMA at one time: the device does the work of many, and each keeps buffers of its own in
memory that cannot be swapped."""
LOOKED_AT = 8
"""Streams whose round trip is read for one sample."""

log = structlog.get_logger()


class _RdmaError(UnreachableError):
    """RDMA could not be had for a stream; TCP is tried next, so it says nothing about the session."""


class StreamKeeper:
    """For one attempt at a transfer. `run` belongs to a thread of its own and ends with the engine."""

    def __init__(
        self,
        node: Node,
        address: str,
        peer: str,
        engine: Sender | Receiver,
        session: Dialled,
        meter: Meter,
        memory: PathMemory | None,
    ) -> None:
        """`meter` counts the links of the transfer; `memory`: what is known of the path."""
        self.live = self.most = 0
        """Connections now, and the most that there were at once."""
        self._node = node
        self._address = address
        self._peer = peer
        self._engine = engine
        self._session = session
        self._meter = meter
        self._lock = threading.Lock()
        self._channels: dict[int, Channel] = {}
        self._dialling = 0
        self._trying_rdma = False
        """After a failure: one stream does, beside those on TCP."""
        self._failures = 0
        transport = node.config.transport
        now = time.monotonic()
        # many windows open sooner than few: none begins with less than it is told to, even where fewer did before
        initial = max(transport.initial_streams, memory.streams if memory is not None else 0)
        model_based = transport.congestion_algorithm == MODEL_BASED
        self._tuner = StreamTuner(
            transport.min_streams,
            transport.max_streams,
            initial,
            transport.stream_scaling_factor,
            now,
            loss_based=not model_based,
        )
        self._limit = RateLimit(now) if isinstance(engine, Sender) and model_based else None
        self._sharing: Set[int] = set()
        """Streams between which the limit is divided."""
        self._turns = Turns()
        self._sampler = Sampler(now)
        measures = node.config.prediction.enabled and isinstance(engine, Sender)
        self._store = links.LinkStore(Path(node.config.storage.state_dir)) if measures else None

    def run(self) -> None:
        """Returns when the engine has finished and every stream has ended."""
        threads: list[threading.Thread] = []
        number = 0
        wait = 0.0
        # streams that may not be needed are cheaper than the round trips of waiting for certainty
        far = (self._session.channel.link.round_trip_seconds() or 0.0) >= FAR
        while not self._engine.finished.wait(wait):
            wait = LOOK
            self._tune()
            backlog = self._engine.backlog() + (self._engine.expected() if far else 0)
            wanted = min(self._target() - self.live, max(backlog, int(not number)), DIALS_AT_ONCE - self._dialling)
            wanted = max(wanted, int(self._rdma_is_due()))
            for _ in range(wanted):
                with self._lock:
                    self.live += 1
                    self._dialling += 1
                    self.most = max(self.most, self.live)
                thread = threading.Thread(
                    target=contextvars.copy_context().run,
                    args=(self._stream, number),
                    name=f"dwcp-stream-{number}",
                    daemon=True,
                )
                number += 1
                threads.append(thread)
                thread.start()
            threads = [thread for thread in threads if thread.is_alive()]
        if self._store is not None:
            now = time.monotonic()
            self._keep(self._sampler.finish(now, self._counts(self._meter.delivery(), None)))
            self._store.close()
        self._end(threads, PARTING if self._engine.error is None else 0.0)
        self._remember()

    def _target(self) -> int:
        streams = self._tuner.streams
        rdma = self._session.rdma and (self._node.rdma.required or self._node.rdma.works(self._peer))
        return min(streams, RDMA_STREAMS) if rdma else streams

    def _rdma_is_due(self) -> bool:
        """Whether a further stream is wanted, to find out if RDMA works again."""
        rdma = self._node.rdma
        if not self._session.rdma or self._trying_rdma or not rdma.due(self._peer) or rdma.problem() is not None:
            return False
        self._trying_rdma = bool(self._engine.backlog() or self._engine.expected())
        return self._trying_rdma

    def _tune(self) -> None:
        now = time.monotonic()
        with self._lock:
            channels = dict(self._channels)
        links = [channel.link for channel in channels.values()]
        delivery = self._meter.delivery()
        trips = [trip for link in links[:LOOKED_AT] if (trip := link.round_trip_seconds())]
        round_trip = statistics.median(trips) if trips else self._session.channel.link.round_trip_seconds() or 0.0
        sends = isinstance(self._engine, Sender)
        if self._store is not None:
            self._keep(self._sampler.observe(now, self._counts(delivery, round_trip)))
        decision = self._tuner.observe(
            now,
            Sample(
                delivered=delivery.acked if sends else delivery.received,
                resent=delivery.resent if sends else 0,
                round_trip=round_trip,
                starved=not self._engine.backlog(),
            ),
        )
        if decision is not None:
            log.info("stream count changes", peer=self._peer, streams=decision.streams, reason=decision.reason)
            self._engine.limit_streams(decision.streams)
        if self._limit is not None:
            if self._engine.paused:
                changed = self._limit.rest(now, delivery.acked, delivery.resent)
            else:
                changed = self._limit.observe(now, delivery.acked, delivery.resent, round_trip)
            if changed or (channels.keys() != self._sharing and self._limit.limit is not None):
                # those that are left share what the others had
                self._sharing = channels.keys()
                self._node.pacer.limit(links, self._limit.limit)
        if self._limit is not None and self._limit.limit is not None:
            for number in self._turns.due(now, channels):
                with contextlib.suppress(TemporaryError):
                    # it broke just now, and its own thread knows what to do
                    channels[number].link.begin_model_anew()

    def _counts(self, delivery: Delivery, round_trip: float | None) -> Counts:
        starved = not self._engine.backlog()
        return Counts(delivery.acked, delivery.resent, round_trip, starved, self._node.pacer.rate)

    def _keep(self, stretch: Stretch | None) -> None:
        if stretch is not None and self._store is not None:
            self._store.add(
                self._peer,
                links.Sample(
                    time.time(),
                    stretch.seconds,
                    stretch.rate,
                    stretch.limited,
                    "transfer",
                    stretch.round_trip,
                    stretch.loss,
                ),
            )

    def _remember(self) -> None:
        if self._tuner.goodput and self._engine.error is None:
            learned = PathMemory(
                self._tuner.streams, self._tuner.goodput, self._node.config.transport.congestion_algorithm
            )
            remember(Path(self._node.config.storage.state_dir), self._peer, learned)

    def _end(self, threads: list[threading.Thread], grace: float) -> None:
        """They end by themselves when all went well; the others are cut."""
        deadline = time.monotonic() + grace
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            for channel in self._channels.values():
                channel.link.shutdown()
        for thread in threads:
            thread.join()

    def _dial(self, number: int) -> tuple[Channel, bool]:
        """A new stream, and whether the peer has confirmed it; over RDMA where that is possible."""
        node, address, session = self._node, self._address, self._session
        end: UcxEnd | None = None
        if session.rdma and node.rdma.allow(self._peer):
            try:
                end = node.rdma.open()
            except UnreachableError as error:
                self._rdma_failed(str(error))
                if node.rdma.required:
                    raise
        if end is None:
            return dial_stream(node, address, session, number), False
        try:
            channel = dial_stream_over_rdma(node, address, session, number, end)
        except TemporaryError as error:
            self._rdma_failed(str(error))
            if node.rdma.required:
                raise
            raise _RdmaError(str(error)) from error
        if not isinstance(channel.link, UcxLink):
            self._rdma_failed("the peer has none now")
        return channel, True

    def _rdma_failed(self, reason: str) -> None:
        if not self._engine.finished.is_set():
            self._trying_rdma = False
            self._node.tally.add("rdma_failures")
            self._node.rdma.failed(self._peer, reason)

    def _rdma_succeeded(self) -> None:
        self._trying_rdma = False
        self._node.rdma.succeeded(self._peer)
        with self._lock:
            over = sum(isinstance(channel.link, UcxLink) for channel in self._channels.values())
            others = len(self._channels) - over
        if others and not self._engine.finished.is_set():
            # those on TCP end after the block that they are at, and are replaced by others over RDMA
            self._engine.limit_streams(over)

    def _stream(self, number: int) -> None:
        span = tracing.begin_stream(self._node.telemetry, number, self._peer)
        with span.active():
            self._carry(number, span)

    def _carry(self, number: int, span: Span) -> None:
        try:
            channel, confirmed_before = self._dial(number)
        except DwcpError as error:
            if not isinstance(error, _RdmaError):
                self._failed(error)
            span.end({}, str(error))
            with self._lock:
                self.live -= 1
            return
        finally:
            with self._lock:
                self._dialling -= 1
        reason = ""
        over_rdma = isinstance(channel.link, UcxLink)
        self._meter.add(channel.link)
        self._node.watch(channel.link, sends=isinstance(self._engine, Sender))
        with self._lock:
            self._channels[number] = channel
        confirmed = threading.Event()

        def confirm() -> None:
            if not confirmed_before:
                confirm_stream(channel)
            if over_rdma:
                self._rdma_succeeded()
            confirmed.set()
            self._failures = 0

        try:
            self._engine.run_stream(number, channel, confirm)
            if over_rdma and not confirmed.is_set():
                self._rdma_succeeded()
        except DwcpError as error:
            if isinstance(self._engine, Sender):
                self._engine.stream_lost(number)
            if not self._engine.finished.is_set():
                reason = str(error)
                log.warning("a stream broke and is replaced", stream=number, reason=reason)
                if over_rdma:
                    self._rdma_failed(reason)
                if over_rdma and self._node.rdma.required:
                    self._give_up(error)
                elif not confirmed.is_set() and not over_rdma:
                    self._failed(error)
        finally:
            tracing.end_stream(span, channel.link, reason)
            self._meter.remove(channel.link)
            self._node.unwatch(channel.link)
            with self._lock:
                self.live -= 1
                del self._channels[number]
            channel.link.close()

    def _failed(self, error: DwcpError) -> None:
        """A connection could not be had; after several in a row the session is given up."""
        with self._lock:
            self._failures += 1
            failures = self._failures
        if failures >= FAILURES:
            self._give_up(error)

    def _give_up(self, error: DwcpError) -> None:
        """The session, for another try."""
        if not self._engine.finished.is_set():
            self._engine.abort(error if isinstance(error, TemporaryError) else UnreachableError(str(error)))
            self._session.channel.link.shutdown()
