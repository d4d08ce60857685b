"""Server-sent events: one computation of what changes, read by any number of pages.

    event      data                                       when
    snapshot   {document, samples, interval, log}         first, and whenever a page cannot go on from where it was
    patch      JSON Merge Patch of the document           each second in which something changed, while anybody looks
    sample     {time, sent, received, peers}              each INTERVAL
    log        records of the transaction log             with the second in which they are found

Messages are encoded once and kept in one ring. A page has no queue but a place in that ring: one that reads slowly, or
comes back with a Last-Event-ID, goes on from its place, and where that has been given up gets a snapshot. So memory
does not grow with the number of pages nor with how slow they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog

from dwcp.dashboard import KEEP_ALIVE, document, patch
from dwcp.dashboard.log_tail import LogTail
from dwcp.dashboard.rates import INTERVAL, History, TransferRates
from dwcp.errors import TemporaryError
from dwcp.metrics.view import NodeView

PERIOD = 1.0
"""Seconds between patches: as often as people can read numbers."""
RING_BYTES = 4 * 1024 * 1024
"""Messages that are kept for pages that come back: with 1,000 transfers half a minute, else many minutes."""
RING_MESSAGES = 600
MAX_FOLLOWERS = 256
"""A quarter of the connections that the server takes; the others are for health checks and scrapes."""

log = structlog.get_logger()


class Feed:
    """All methods belong to the event loop."""

    def __init__(self, view: NodeView) -> None:
        self._view = view
        self._node: patch.Document = {"program": version("dwcp")}
        self._tail = LogTail(Path(view.config.storage.state_dir))
        self._rates = TransferRates()
        self._history = History()
        self._document: patch.Document = {}
        self._stream = secrets.token_hex(4)
        self._newest = 0
        """Number of the newest message; the ring's are the last `len(self._ring)` up to it."""
        self._ring: deque[bytes] = deque()
        self._ring_bytes = 0
        self._snapshot: tuple[int, bytes] | None = None
        self._changed = asyncio.Event()
        self._followers = 0
        self._looked_at = -math.inf
        self._looking = asyncio.Lock()
        self._running = False
        self._samples: asyncio.Task[None] | None = None
        self._patches: asyncio.Task[None] | None = None

    @property
    def followers(self) -> int:
        return self._followers

    def start(self) -> None:
        self._running = True
        self._node["started_at"] = round(time.time() - self._view.health().uptime_seconds)
        self._samples = asyncio.create_task(self._run_samples(), name="dwcp-dashboard-samples")

    async def stop(self) -> None:
        """Ends every page's stream; they come back when there is somebody to answer."""
        self._running = False
        self._wake()
        for task in (self._samples, self._patches):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    def follow(self, last_event_id: str) -> AsyncIterator[bytes]:
        """The stream from where `last_event_id` was, or from a snapshot. Raises TemporaryError at once when too many
        look."""
        if self._followers >= MAX_FOLLOWERS:
            raise TemporaryError(f"{MAX_FOLLOWERS} pages look at this node already; close some of them")
        return self._messages(self._place(last_event_id))

    async def _messages(self, place: int | None) -> AsyncIterator[bytes]:
        """`place`: number of the last message that the page has."""
        self._followers += 1
        try:
            if time.monotonic() - self._looked_at > 2 * PERIOD:
                # nobody has looked for a while
                await self._look()
            if self._patches is None or self._patches.done():
                self._patches = asyncio.create_task(self._run_patches(), name="dwcp-dashboard-patches")
            while self._running:
                oldest = self._newest - len(self._ring)
                if place is None or place < oldest:
                    place = self._newest
                    yield self._encoded_snapshot()
                elif place < self._newest:
                    message = self._ring[place - oldest]
                    place += 1
                    yield message
                else:
                    try:
                        async with asyncio.timeout(KEEP_ALIVE):
                            await self._changed.wait()
                    except TimeoutError:
                        yield b": nothing changed\n\n"
        finally:
            self._followers -= 1

    def _place(self, last_event_id: str) -> int | None:
        stream, _, number = last_event_id.partition("-")
        if stream != self._stream or not number.isdecimal() or len(number) > 15:
            return None
        return min(int(number), self._newest)

    async def _run_patches(self) -> None:
        while self._followers:
            await asyncio.sleep(PERIOD)
            await self._look()

    async def _run_samples(self) -> None:
        while True:
            with _kept_running():
                counters, board = self._view.transport(), self._view.board
                transfers = [*board.recent(), *board.live()]
                wall = time.time()
                sample = self._history.sample(
                    time.monotonic(), wall, counters.bytes_sent, counters.bytes_received, transfers
                )
                if sample is not None:
                    self._tell("sample", asdict(sample))
            await asyncio.sleep(INTERVAL)

    async def _look(self) -> None:
        """Tells what has changed since the last look."""
        async with self._looking:
            self._looked_at = time.monotonic()
            with _kept_running():
                live = self._view.board.live()
                rates = self._rates.update(live, time.monotonic())
                after = document.build(self._view, self._node, rates, live)
                changes, self._document = patch.difference(self._document, after), after
                if changes:
                    self._tell("patch", changes)
                records = await asyncio.to_thread(self._tail.poll)
                if records:
                    self._tail.keep(records)
                    self._tell("log", records)

    def _tell(self, event: str, data: Any) -> None:
        self._newest += 1
        message = self._encoded(event, data)
        self._ring.append(message)
        self._ring_bytes += len(message)
        while len(self._ring) > RING_MESSAGES or self._ring_bytes > RING_BYTES:
            self._ring_bytes -= len(self._ring.popleft())
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _encoded_snapshot(self) -> bytes:
        if self._snapshot is None or self._snapshot[0] != self._newest:
            data = {
                "document": self._document,
                "samples": [asdict(sample) for sample in self._history.samples],
                "interval": INTERVAL,
                "log": self._tail.newest(),
            }
            self._snapshot = (self._newest, self._encoded("snapshot", data))
        return self._snapshot[1]

    def _encoded(self, event: str, data: Any) -> bytes:
        text = json.dumps(data, separators=(",", ":"))
        return f"id: {self._stream}-{self._newest}\nevent: {event}\ndata: {text}\n\n".encode()


@contextlib.contextmanager
def _kept_running() -> Iterator[None]:
    """What cannot be shown once is shown the next time; a fault of ours must not end the stream for good."""
    try:
        yield
    except Exception:
        log.exception("the dashboard could not look at the node")
