"""Keeps as many data connections as pay for one transfer, replaces those that break, and gives them their pace."""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from pathlib import Path

import structlog

from dwcp.errors import DwcpError, TemporaryError, UnreachableError
from dwcp.links.sockopts import MODEL_BASED
from dwcp.store.path_memory import PathMemory, remember
from dwcp.transfer.channel import Channel, Meter
from dwcp.transfer.node import Node
from dwcp.transfer.receiver import Receiver
from dwcp.transfer.sender import Sender
from dwcp.transfer.session import DIALS_AT_ONCE, PARTING, Dialled, confirm_stream, dial_stream
from dwcp.tuning.leaves import FAR
from dwcp.tuning.rate import RateLimit
from dwcp.tuning.streams import Sample, StreamTuner
from dwcp.tuning.turns import Turns

LOOK = 0.02
"""Seconds between looks at whether more streams would find work: under one round trip of the links this is made for."""
FAILURES = 5
"""Connections that may fail in a row before the session is given up."""
LOOKED_AT = 8
"""Streams whose round trip is read for one sample."""

log = structlog.get_logger()


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
        self._failures = 0
        transport = node.config.transport
        now = time.monotonic()
        self._tuner = StreamTuner(
            transport.min_streams,
            transport.max_streams,
            transport.initial_streams,
            transport.stream_scaling_factor,
            now,
            known=memory.streams if memory is not None else None,
            fewer_first=transport.congestion_algorithm == MODEL_BASED,
        )
        paces = isinstance(engine, Sender) and transport.congestion_algorithm == MODEL_BASED
        self._limit = RateLimit(now) if paces else None
        self._turns = Turns()

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
            wanted = min(self._tuner.streams - self.live, max(backlog, int(not number)), DIALS_AT_ONCE - self._dialling)
            for _ in range(wanted):
                with self._lock:
                    self.live += 1
                    self._dialling += 1
                    self.most = max(self.most, self.live)
                thread = threading.Thread(
                    target=self._stream, args=(number,), name=f"dwcp-stream-{number}", daemon=True
                )
                number += 1
                threads.append(thread)
                thread.start()
            threads = [thread for thread in threads if thread.is_alive()]
        self._end(threads, PARTING if self._engine.error is None else 0.0)
        self._remember()

    def _tune(self) -> None:
        now = time.monotonic()
        with self._lock:
            channels = dict(self._channels)
        links = [channel.link for channel in channels.values()]
        delivery = self._meter.delivery()
        trips = [trip for link in links[:LOOKED_AT] if (trip := link.round_trip_seconds())]
        round_trip = statistics.median(trips) if trips else self._session.channel.link.round_trip_seconds() or 0.0
        sends = isinstance(self._engine, Sender)
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
                self._limit.begin_anew()
                self._node.pacer.limit(links, None)
        if self._limit is not None and self._limit.observe(now, delivery.acked, delivery.resent, round_trip):
            self._node.pacer.limit(links, self._limit.limit)
        if self._limit is not None and self._limit.limit is not None:
            for number in self._turns.due(now, channels):
                with contextlib.suppress(TemporaryError):
                    # it broke just now, and its own thread knows what to do
                    channels[number].link.begin_model_anew()

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

    def _stream(self, number: int) -> None:
        try:
            channel = dial_stream(self._node, self._address, self._session, number)
        except DwcpError as error:
            self._failed(error)
            with self._lock:
                self.live -= 1
            return
        finally:
            with self._lock:
                self._dialling -= 1
        self._meter.add(channel.link)
        self._node.watch(channel.link, sends=isinstance(self._engine, Sender))
        with self._lock:
            self._channels[number] = channel
        confirmed = threading.Event()

        def confirm() -> None:
            confirm_stream(channel)
            confirmed.set()
            self._failures = 0

        try:
            self._engine.run_stream(number, channel, confirm)
        except DwcpError as error:
            if isinstance(self._engine, Sender):
                self._engine.stream_lost(number)
            if not self._engine.finished.is_set():
                log.warning("a stream broke and is replaced", stream=number, reason=str(error))
                if not confirmed.is_set():
                    self._failed(error)
        finally:
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
        if failures >= FAILURES and not self._engine.finished.is_set():
            self._engine.abort(error if isinstance(error, TemporaryError) else UnreachableError(str(error)))
            self._session.channel.link.shutdown()
