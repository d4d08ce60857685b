"""Connections that are begun before it is known which stream each will carry: their round trip passes meanwhile."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from concurrent.futures import Future

from dwcp.config import Config
from dwcp.errors import DwcpError
from dwcp.hde.hashes import MIN_LEAF
from dwcp.links.endpoints import LinkSettings, connect

FRESH = 3.0
"""Seconds for which a connection that has said nothing may be relied on: peers end those that stay silent, soonest
after security.handshake_timeout."""
GUESS = 8
"""Connections for a transfer whose size is not known: enough for a good start, few to throw away."""


def worth_beginning(config: Config, size: int | None) -> int:
    """Connections for a transfer of `size` bytes, of a size not known yet for None: no more than it has leaves."""
    leaves = GUESS if size is None else size // MIN_LEAF + 1
    return min(config.transport.initial_streams, leaves)


class Ahead:
    """Threads may share one."""

    def __init__(self, address: str, settings: LinkSettings) -> None:
        self._address = address
        self._settings = settings
        self._lock = threading.Lock()
        self._begun: list[tuple[float, Future[socket.socket]]] = []

    def begin(self, count: int) -> None:
        """Connects `count` sockets, each in a thread of its own."""
        for _ in range(count):
            promise: Future[socket.socket] = Future()
            with self._lock:
                self._begun.append((time.monotonic(), promise))
            threading.Thread(target=self._connect, args=(promise,), name="dwcp-ahead", daemon=True).start()

    def take(self) -> socket.socket | None:
        """A connected socket, the caller's from now on; None when there is none. Raises UnreachableError."""
        while True:
            with self._lock:
                if not self._begun:
                    return None
                began, promise = self._begun.pop(0)
            if time.monotonic() - began < FRESH:
                return promise.result()
            _discard(promise)

    def close(self) -> None:
        """Ends those that nobody took."""
        with self._lock:
            left, self._begun = self._begun, []
        for _, promise in left:
            _discard(promise)

    def _connect(self, promise: Future[socket.socket]) -> None:
        try:
            sock, _ = connect(self._address, self._settings)
        except DwcpError as error:
            promise.set_exception(error)
            return
        promise.set_result(sock)


def _discard(promise: Future[socket.socket]) -> None:
    def close(done: Future[socket.socket]) -> None:
        with contextlib.suppress(DwcpError):
            # one that could not be had needs no end
            done.result().close()

    promise.add_done_callback(close)
