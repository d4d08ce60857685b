"""Answers what monitoring asks for most, in a process of its own: `python -m dwcp.api.probes LISTENER CONTROL`.

While a node moves data at full speed, its threads hand the interpreter's lock to each other, and each time wait for a
core: the event loop gets both some 50 ms late. This process shares neither with them. It has the listening socket, and
copies of the answers that the manager renews several times a second. A request for one of these is answered at once;
every other connection is given to the manager as it is, by its descriptor, before anything was read from it.

CONTROL is a socket of sequenced packets. From the manager: the copies, as {path: [status, body]}. To it: `READY`, the
counts of requests as JSON, or `CONNECTION` with a descriptor. It ends when the manager closes its end, or is no more.
It imports next to nothing but the standard library: it takes 6 MB beside what it shares with the manager.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import re
import select
import signal
import socket
import struct
import sys
import time
from collections import OrderedDict, deque
from http import HTTPStatus

from dwcp.metrics.requests import Count, Key

READY = b"ready"
CONNECTION = b"connection"
MAX_PACKET = 128 * 1024
"""Bytes; within what a socket's buffer holds by default (net.core.wmem_default, 208 KiB)."""
STALE = 5.0
"""Seconds without a word from the manager, which renews the copies at least each second, until it is called stuck."""
MAX_WAITING = 1000
"""Connections without a request; for one more the one that is quiet for longest has to go."""
QUIET = 30.0
"""Seconds that a connection may be quiet: two scrapes of a usual Prometheus ride one."""
REPORT = 1.0
"""Seconds between reports of counts, where there is something new."""
SLICE = 100_000
"""Nanoseconds, the least there is. Who asks for shorter turns gets them sooner (EEVDF, since Linux 6.12)."""
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_MAX_HEAD = 8192

_HEAD = re.compile(
    rb"(GET|HEAD) (/[a-z/-]*) HTTP/1\.1\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*\r\n)+)\r\n"
)
_HEADER = re.compile(rb"^([^:]+):[ \t]*(.*?)[ \t]*\r$", re.MULTILINE)
_NOT_OURS = {b"content-length", b"transfer-encoding", b"expect", b"upgrade"}
"""Who sends these wants more than the copy of an answer."""
HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


class Probes:
    def __init__(self, listener: socket.socket, control: socket.socket) -> None:
        self._listener = listener
        self._control = control
        self._poll = select.epoll()
        self._waiting: OrderedDict[int, tuple[socket.socket, float]] = OrderedDict()
        self._to_give: deque[socket.socket] = deque()
        self._copies: dict[bytes, tuple[int, bytes, bytes]] = {}
        self._heard = time.monotonic()
        self._counts: dict[Key, Count] = {}
        self._reported = self._counted = 0
        self._report_at = 0.0

    def run(self) -> None:
        """Until the manager has gone."""
        for sock in (self._listener, self._control):
            sock.setblocking(False)
            self._poll.register(sock, select.EPOLLIN)
        self._control.send(READY)
        while True:
            events = dict(self._poll.poll(REPORT if self._waiting or self._counted > self._reported else -1))
            # first: a change that was made over HTTP shows in the answer to the next request
            if self._control.fileno() in events and not self._hear(events.pop(self._control.fileno())):
                return
            for descriptor in events:
                if descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor in self._waiting:
                    self._asked(self._waiting[descriptor][0])
            self._report()
            self._drop_quiet()

    # -- the manager ---------------------------------------------------------------------------------------------------

    def _hear(self, events: int) -> bool:
        if events & select.EPOLLOUT:
            self._give()
        if not events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
            return True
        packet = self._control.recv(MAX_PACKET)
        if packet:
            self._heard = time.monotonic()
            self._copies = {path.encode(): render(status, body) for path, (status, body) in json.loads(packet).items()}
        return bool(packet)

    def _give(self) -> None:
        """Connections that the manager did not take yet, in the order in which they came."""
        while self._to_give:
            sock = self._to_give[0]
            try:
                socket.send_fds(self._control, [CONNECTION], [sock.fileno()])
            except OSError as error:
                # the second: too many are on their way (unix(7))
                if error.errno not in (errno.EAGAIN, errno.ETOOMANYREFS):
                    raise
                self._poll.modify(self._control, select.EPOLLIN | select.EPOLLOUT)
                return
            self._to_give.popleft().close()
        self._poll.modify(self._control, select.EPOLLIN)

    def _report(self) -> None:
        now = time.monotonic()
        if self._counted == self._reported or now < self._report_at:
            return
        self._report_at = now + REPORT
        counts = [[*key, count.buckets, count.seconds] for key, count in self._counts.items()]
        try:
            self._control.send(json.dumps(counts).encode())
        except BlockingIOError:
            # all of them are in the next report too
            return
        self._reported = self._counted

    # -- clients -------------------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:
            # no descriptor is left, or the client has gone
            self._drop_one()
            return
        sock.setblocking(False)
        if len(self._waiting) >= MAX_WAITING:
            self._drop_one()
        self._waiting[sock.fileno()] = (sock, time.monotonic() + QUIET)
        self._poll.register(sock, select.EPOLLIN)

    def _asked(self, sock: socket.socket) -> None:
        try:
            stays, ours = self._talk(sock)
        except BlockingIOError:
            # all that has come is answered
            return
        except OSError:
            # the client has gone
            stays, ours = False, True
        if stays:
            return
        self._forget(sock)
        if ours or len(self._to_give) >= MAX_WAITING:
            sock.close()
        else:
            self._to_give.append(sock)
            self._give()

    def _talk(self, sock: socket.socket) -> tuple[bool, bool]:
        """Answers; whether the connection stays here, and if it does not, whether it has ended here. Raises OSError."""
        while True:
            began = time.perf_counter()
            head = sock.recv(_MAX_HEAD, socket.MSG_PEEK)
            match = _HEAD.match(head)
            answer = self._answer(match, began) if match else None
            if match is None or answer is None:
                return False, not head
            content, closes = answer
            sock.recv(match.end())
            if sock.send(content) != len(content) or closes:
                return False, True
            self._waiting[sock.fileno()] = (sock, time.monotonic() + QUIET)
            self._waiting.move_to_end(sock.fileno())

    def _answer(self, match: re.Match[bytes], began: float) -> tuple[bytes, bool] | None:
        """What to send, and whether the connection ends with it; None where that is not for us to answer."""
        copy = self._copies.get(match[2])
        headers = {name.lower(): value.lower() for name, value in _HEADER.findall(match[3])}
        if copy is None or b"host" not in headers or not _NOT_OURS.isdisjoint(headers):
            return None
        silent = time.monotonic() - self._heard
        status, head, body = copy if silent < STALE else stuck(match[2], silent)
        closes = b"close" in headers.get(b"connection", b"")
        if closes:
            head = head.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
        count = self._counts.setdefault(("GET", match[2].decode(), status), Count())
        count.add(time.perf_counter() - began)
        self._counted += 1
        return head if match[1] == b"HEAD" else head + body, closes

    def _forget(self, sock: socket.socket) -> socket.socket:
        self._poll.unregister(sock)
        del self._waiting[sock.fileno()]
        return sock

    def _drop_one(self) -> None:
        if self._waiting:
            self._forget(next(iter(self._waiting.values()))[0]).close()

    def _drop_quiet(self) -> None:
        now = time.monotonic()
        while self._waiting and next(iter(self._waiting.values()))[1] < now:
            self._drop_one()


def render(status: int, body: str) -> tuple[int, bytes, bytes]:
    """(status, head, body) of an answer."""
    content = body.encode()
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        # RFC 9110, 5.6.7, in the C locale, which is never left here
        time.strftime("date: %a, %d %b %Y %H:%M:%S GMT", time.gmtime()),
        f"content-length: {len(content)}",
        "content-type: application/json",
        *(f"{name}: {value}" for name, value in HEADERS.items()),
    ]
    return status, ("\r\n".join(lines) + "\r\n\r\n").encode(), content


def stuck(path: bytes, seconds: float) -> tuple[int, bytes, bytes]:
    """What is said in the place of an old copy."""
    error = f"the manager has not been heard of for {seconds:.0f} s; its log and /proc/PID/stack say where it is"
    document = {"/health": {"status": "unhealthy", "error": error}, "/live": {"status": "stuck"}}
    other = {"status": "not ready", "reason": error}
    return render(503, json.dumps(document.get(path.decode(), other), separators=(",", ":")))


def take_short_turns() -> None:
    """Beside threads that compute, one that only answers gets a core sooner (sched_setattr(2)). It works without it."""
    number = _SCHED_SETATTR.get(platform.machine())
    if number is not None:
        attributes = struct.pack("IIQiIQQQ", 48, os.SCHED_OTHER, 0, os.getpriority(os.PRIO_PROCESS, 0), 0, SLICE, 0, 0)
        ctypes.CDLL(None).syscall(number, 0, attributes, 0)


def main() -> None:
    """The manager says by closing its end when it is time to go: signals for the whole group are not meant for us."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    take_short_turns()
    listener, control = (socket.socket(fileno=int(argument)) for argument in sys.argv[1:3])
    try:
        Probes(listener, control).run()
    except (BrokenPipeError, ConnectionResetError):
        # the manager was killed in the middle of it
        return


if __name__ == "__main__":
    main()
