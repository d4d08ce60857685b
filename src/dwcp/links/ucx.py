"""A link on UCX: RDMA verbs on InfiniBand and RoCE; its own TCP or shared memory to try the same code elsewhere.

A link is made from a TCP or TLS one, its companion, over which both ends have told each other the address of a UCX
worker. From then on content goes over UCX, and the companion says only that the other end lives: it is closed when the
process there ends, however it ends, which UCX itself notices late or, in shared memory, never. So no UCX listener is
open to strangers, and what is not encrypted here was agreed upon by two ends that have proved who they are.

    posted buffer     one tagged message of at most PIECE bytes, by rendezvous: it stays in the sender's memory until
                      the receiver has posted a buffer for it, and goes there without a copy in between where the
                      hardware can do that. So neither end ever holds what nobody waits for.
    end in good order 8 bytes on the companion, how much was sent, then its FIN: it may overtake content
    end otherwise     FIN without them

A worker belongs to one link. It has no thread: whoever waits drives it, so that nothing is received while nobody waits
and a fast sender is held back.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from typing_extensions import Buffer

from dwcp.errors import DwcpError, ProtocolError, TimeoutExpired, UnreachableError
from dwcp.links.failures import LinkFailures
from dwcp.links.interface import Delivery
from dwcp.links.rdma_device import RdmaDevice
from dwcp.links.tcp import TcpLink
from dwcp.links.tls import TlsLink

PIECE = 1024 * 1024
"""Bytes in one message: the usual leaf. A larger one would only delay whoever waits for its place in the queue."""
PACED_PIECE_SECONDS = 0.25
"""What is paced goes in pieces that take no longer, so that the other end doesn't take a slow pace for silence."""
LEAST_PIECE = 16 * 1024
WINDOW = 4 * PIECE
"""Bytes that may be posted at once where nobody has asked for less."""
MAX_ADDRESS = 4096
"""Bytes of a worker's address that are looked at; UCX makes 52 for one TCP device, a few hundred for several."""
LOOK = 1.0
"""Seconds between looks at whether the device is still there, while one waits."""
LINGER = 5.0
"""Seconds that the other end gets to take what is on the way when a link is closed."""
CANCEL_TRIES = 50
CANCEL_PERIOD = 20_000_000
"""Nanoseconds; both as ucxx takes them."""
TAG = 1
"""All messages of a link; a worker has no other peer."""


Companion: TypeAlias = TcpLink | TlsLink


class Ucx:
    """UCX on one device. Threads may share one."""

    def __init__(self, device: RdmaDevice) -> None:
        """Raises UnreachableError when the device cannot be used, with the runbook's words where it isn't there."""
        self.device = device
        problem = device.problem()
        if problem is not None:
            raise UnreachableError(problem)
        self.lib = _load()
        # every message by rendezvous, see above
        options = {**device.options(), "RNDV_THRESH": "0"}
        try:
            self._context = self.lib.UCXContext(options, (self.lib.Feature.TAG, self.lib.Feature.WAKEUP))
        except self.lib.UCXError as error:
            raise UnreachableError(
                f"UCX cannot use {device} ({error}); `ucx_info -d` lists what it can use, and the UCX in the package "
                "libucx has no verbs: RAPIDS_LIBUCX_PREFER_SYSTEM_LIBRARY=true takes the system's"
            ) from error

    def open(self) -> UcxEnd:
        """Our end of a link to be. Raises UnreachableError."""
        try:
            worker = self.lib.UCXWorker(self._context)
            worker.init_blocking_progress_mode()
            return UcxEnd(self, worker, self.lib.UCXAddress.create_from_worker(worker).tobytes())
        except self.lib.UCXError as error:
            raise UnreachableError(f"UCX gives no worker on {self.device} ({error})") from error


class UcxEnd:
    """A worker that waits for its peer. `address` is what the other end has to be told."""

    def __init__(self, ucx: Ucx, worker: Any, address: bytes) -> None:
        self.address = address
        self._ucx = ucx
        self._worker = worker

    def connect(self, peer: bytes, companion: Companion, *, read_timeout: float, write_timeout: float) -> UcxLink:
        """The link to the worker with address `peer`; takes the companion over. Times in seconds.

        Raises UnreachableError where no transport of the device leads there; the companion is as good as before then.
        """
        ucx = self._ucx
        if not 0 < len(peer) <= MAX_ADDRESS:
            raise UnreachableError(f"a UCX address has 1 to {MAX_ADDRESS} bytes, not {len(peer)}")
        try:
            address = ucx.lib.UCXAddress.create_from_buffer(peer)
            endpoint = self._worker.create_endpoint_from_worker_address(address, ucx.device.detects_failure)
        except ucx.lib.UCXError as error:
            raise UnreachableError(f"UCX does not reach {companion.description} over {ucx.device} ({error})") from error
        return UcxLink(ucx, self._worker, endpoint, companion, read_timeout=read_timeout, write_timeout=write_timeout)


class UcxLink(LinkFailures):
    """See `interface.Link`."""

    encrypted = False

    def __init__(
        self, ucx: Ucx, worker: Any, endpoint: Any, companion: Companion, *, read_timeout: float, write_timeout: float
    ) -> None:
        self._device = ucx.device
        self._lib = ucx.lib
        self._worker = worker
        self._endpoint = endpoint
        self._companion = companion
        self._read_timeout = read_timeout
        self._write_timeout = write_timeout
        self._description = f"rdma {ucx.device}, beside {companion.description}"
        self._array = _array()
        self._tag, self._mask = ucx.lib.UCXXTag(TAG), ucx.lib.UCXXTagMaskFull
        self._left_over = memoryview(b"")
        """Of a message that was longer than what was asked for."""
        self._sent = self._received = 0
        self._promised: int | None = None
        """How much the other end says that it has sent, once it has left in good order."""
        self._gone = self._broken = False
        """The companion's other end has closed; nothing can come any more."""
        self._window = WINDOW
        self._rate: float | None = None
        self._next_at = 0.0
        self._ended = threading.Event()
        self._condition = threading.Condition()
        self._driving = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(worker.epoll_file_descriptor, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        self._poll.register(companion.fileno(), select.POLLRDHUP)

    @property
    def peer_has_left(self) -> bool:
        """The process at the other end has closed the link, in whatever way."""
        return self._gone

    def wire_bytes(self) -> tuple[int, int]:
        return self._sent, self._received

    def delivery(self) -> Delivery:
        return Delivery(self._sent, 0, self._received)

    def round_trip_seconds(self) -> float | None:
        """The companion's: the same two machines, though perhaps another network between them."""
        return self._companion.round_trip_seconds()

    def set_read_timeout(self, seconds: float) -> None:
        self._read_timeout = seconds

    def set_pacing(self, bits_per_second: int | None) -> None:
        self._rate = None if bits_per_second is None else max(1.0, bits_per_second / 8)

    def limit_queue(self, size: int) -> None:
        self._window = size

    def begin_model_anew(self) -> None:
        """RDMA has no model of a path: the receiver's buffers pace it."""

    # -- content -------------------------------------------------------------------------------------------------------

    def send(self, *parts: Buffer) -> None:
        posted: deque[tuple[Any, memoryview]] = deque()
        waiting = 0
        try:
            for part in parts:
                view = memoryview(part).cast("B")
                while view:
                    piece = view[: self._piece()]
                    view = view[len(piece) :]
                    self._pace(len(piece))
                    while posted and waiting + len(piece) > self._window:
                        waiting -= self._taken(posted)
                    posted.append((self._endpoint.tag_send(self._array(piece), self._tag), piece))
                    waiting += len(piece)
            while posted:
                self._taken(posted)
        except self._lib.UCXError as error:
            raise self._failure(error) from error
        finally:
            self._withdraw([request for request, _ in posted])

    def _taken(self, posted: deque[tuple[Any, memoryview]]) -> int:
        """Waits until the other end has the first of what is posted; its size."""
        request, piece = posted[0]
        self._until(lambda: request.completed, self._write_timeout, self._stuck, self._must_stay)
        posted.popleft()
        request.check_error()
        self._sent += len(piece)
        return len(piece)

    def receive_into(self, view: memoryview) -> None:
        rest = view.cast("B")
        whole = len(rest)
        while rest:
            if not self._left_over:
                rest = rest[self._receive_message(rest, first=len(rest) == whole) :]
            count = min(len(self._left_over), len(rest))
            rest[:count] = self._left_over[:count]
            self._left_over, rest = self._left_over[count:], rest[count:]

    def _receive_message(self, room: memoryview, *, first: bool) -> int:
        """Puts the next message into `room`, or where it doesn't fit aside: how much of `room` it filled."""
        found: list[Any] = []

        def arrived() -> bool:
            if not found:
                probe = self._worker.tag_probe(self._tag, self._mask, True)
                if probe.matched:
                    found.append(probe)
            return bool(found)

        requests: list[Any] = []
        try:
            self._until(arrived, self._read_timeout, self._silent, self._may_come)
            size = found[0].length
            if not 0 < size <= PIECE:
                self._broken = True
                raise ProtocolError(f"{self._description}: a message has 1 to {PIECE} bytes, not {size}")
            fits = size <= len(room)
            target = room[:size] if fits else memoryview(bytearray(size))
            requests.append(self._endpoint.tag_recv_with_handle(self._array(target), found[0]))
            self._until(lambda: requests[0].completed, self._read_timeout, self._silent, self._may_come)
            requests[0].check_error()
        except self._lib.UCXError as error:
            raise self._failure(error) from error
        except EOFError:
            if not first:
                raise self._cut_off() from None
            raise
        finally:
            self._withdraw(requests)
        self._received += size
        if fits:
            return int(size)
        self._left_over = target
        return 0

    def _piece(self) -> int:
        rate = self._rate
        return PIECE if rate is None else min(PIECE, max(LEAST_PIECE, int(rate * PACED_PIECE_SECONDS)))

    def _pace(self, size: int) -> None:
        rate = self._rate
        if rate is None:
            return
        now = time.monotonic()
        begin = max(now, self._next_at)
        self._next_at = begin + size / rate
        if begin > now:
            self._ended.wait(begin - now)

    # -- driving -------------------------------------------------------------------------------------------------------

    def _until(
        self, done: Callable[[], bool], timeout: float, late: Callable[[], TimeoutExpired], alone: Callable[[], None]
    ) -> None:
        """Moves the worker on until `done`. Of two threads one drives while the other waits for it. `alone` is asked
        once the other end has left and nothing moves; it raises where there is nothing to wait for."""
        deadline = time.monotonic() + timeout
        while True:
            with self._condition:
                self._condition.wait_for(lambda: not self._driving or done(), max(0.0, deadline - time.monotonic()))
                if self._ended.is_set():
                    raise UnreachableError(f"{self._description}: connection lost (closed at this end)")
                if done():
                    return
                if time.monotonic() >= deadline:
                    self._broken = True
                    raise late()
                self._driving = True
            try:
                idle = not self._worker.progress_once()
                if idle and self._gone and not done():
                    alone()
                if idle and self._worker.arm():
                    self._wait(deadline)
            finally:
                with self._condition:
                    self._driving = False
                    self._condition.notify_all()

    def _wait(self, deadline: float) -> None:
        """Until something happens, or it is time for a look at the device."""
        rest = max(0.0, deadline - time.monotonic())
        events = self._poll.poll(min(LOOK, rest) * 1000)
        if any(descriptor == self._companion.fileno() for descriptor, _ in events):
            self._poll.unregister(self._companion.fileno())
            self._promised = self._farewell()
            self._gone = True
        elif not events and rest > LOOK:
            problem = self._device.problem()
            if problem is not None:
                self._broken = True
                raise UnreachableError(f"{self._description}: connection lost ({problem})")

    def _farewell(self) -> int | None:
        """What the companion brought before its end. All of it is there already: a FIN comes last."""
        word = bytearray(8)
        try:
            self._companion.receive_into(memoryview(word))
        except (EOFError, DwcpError):
            return None
        return int.from_bytes(word, "big")

    def _must_stay(self) -> None:
        self._broken = True
        raise self._left()

    def _may_come(self) -> None:
        if self._promised is None:
            self._broken = True
            raise self._left()
        if self._received >= self._promised:
            raise EOFError

    def _withdraw(self, requests: list[Any]) -> None:
        """Buffers are the caller's again when a call returns, so what is still posted is cancelled."""
        if all(request.completed for request in requests):
            return
        self._broken = True
        self._end_endpoint()
        for _ in range(CANCEL_TRIES):
            if all(request.completed for request in requests):
                return
            self._worker.progress_once()
            time.sleep(0.001)
        # in shared memory nothing can be cancelled; nor does anything happen there that nobody drives
        self.shutdown()

    def _end_endpoint(self) -> None:
        if not self._device.detects_failure:
            # it would wait for the other end without limit; with its last reference the worker gives it up
            return
        with contextlib.suppress(self._lib.UCXError):
            # it may have failed before; there is nothing more to be had from it
            self._endpoint.close_blocking(CANCEL_PERIOD, CANCEL_TRIES)

    # -- the end -------------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        with self._condition:
            if self._wake >= 0:
                self._ended.set()
                os.eventfd_write(self._wake, 1)
                self._companion.shutdown()

    def close(self) -> None:
        if self._wake < 0:
            return
        try:
            if not self._ended.is_set() and not self._broken:
                self._leave()
        except (EOFError, DwcpError):
            # the other end has left too, or cannot be told
            pass
        finally:
            self._end_endpoint()
            with self._condition:
                os.close(self._wake)
                self._wake = -1
                self._companion.close()
            self._endpoint = self._worker = None

    def _leave(self) -> None:
        self._companion.send(self._sent.to_bytes(8, "big"))
        self._companion.finish()
        # what is on the way needs this worker; the other end leaves when it has everything
        self._until(lambda: self._gone, LINGER, self._stuck, self._must_stay)

    def _failure(self, error: Exception) -> UnreachableError:
        self._broken = True
        return self._lost(f"UCX: {error}")

    def _left(self) -> UnreachableError:
        return UnreachableError(f"{self._description}: the peer closed the connection without a word")

    def _cut_off(self) -> UnreachableError:
        self._broken = True
        return super()._cut_off()


def _load() -> Any:
    """UCX's low-level interface: the asyncio one would need a loop a thread. Raises UnreachableError."""
    # what UCX says of itself would go to standard output, where results are; its errors reach us as statuses
    for name, value in (("LOG_LEVEL", "fatal"), ("LOG_FILE", "stderr"), ("WARN_UNUSED_ENV_VARS", "n")):
        os.environ.setdefault(f"UCX_{name}", value)
    # it would take SIGSEGV, SIGBUS and others for itself, and SIGHUP, by which a manager is told to reload
    os.environ.setdefault("UCX_HANDLE_ERRORS", "none")
    os.environ.setdefault("UCX_DEBUG_SIGNO", "0")
    try:
        from ucxx._lib import libucxx
    except (ImportError, OSError) as error:
        raise UnreachableError(f"RDMA needs the package ucxx ({error}); `pip install 'dwcp[rdma]'`") from error
    return libucxx


def _array() -> Any:
    from ucxx._lib.arr import Array

    return Array
