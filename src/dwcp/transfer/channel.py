"""Frames over a link, and the count of what went over it."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from typing_extensions import Buffer

from dwcp.errors import UnreachableError
from dwcp.links.interface import Delivery, Link
from dwcp.wire import frames
from dwcp.wire.frames import BodyError, DamagedError, FrameError, NoFrameError, Prefix
from dwcp.wire.messages import Message, decode, encode


class DamagedLinkError(UnreachableError):
    """Bytes were changed on the way, and nobody knows where the next frame begins: the link is lost like one that was
    cut, and another one may well be whole."""


class Meter:
    """All bytes that a transfer put on the network, both ways, over links that come and go."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._links: set[Link] = set()
        self._sent = self._received = 0
        self._gone = Delivery()

    def add(self, link: Link) -> None:
        with self._lock:
            self._links.add(link)

    def remove(self, link: Link) -> None:
        """Before the link is closed: keeps what it counted."""
        with self._lock:
            if link in self._links:
                self._links.remove(link)
                sent, received = link.wire_bytes()
                self._sent += sent
                self._received += received
                self._gone = _sum([self._gone, link.delivery()])

    def delivery(self) -> Delivery:
        """Of all links together, those that have gone included."""
        with self._lock:
            return _sum([self._gone, *(link.delivery() for link in self._links)])

    def read(self) -> tuple[int, int]:
        """(sent, received)."""
        with self._lock:
            counts = [link.wire_bytes() for link in self._links]
            return self._sent + sum(sent for sent, _ in counts), self._received + sum(got for _, got in counts)


def _sum(parts: Iterable[Delivery]) -> Delivery:
    total = Delivery()
    for part in parts:
        total = Delivery(total.acked + part.acked, total.resent + part.resent, total.received + part.received)
    return total


class Channel:
    """One link as a sequence of messages. Any thread may send; one receives."""

    def __init__(self, link: Link, max_body: int = frames.MAX_BODY, max_head: int = frames.MAX_HEAD) -> None:
        self.link = link
        self.max_body = max_body
        self.max_head = max_head
        self.sent = 0
        """Bytes of frames, so far."""
        self._send_lock = threading.Lock()
        self._prefix = memoryview(bytearray(frames.PREFIX_SIZE))
        self._speaks_frames = False

    def send(self, message: Message, body: Buffer | None = None, body_hash: bytes | None = None) -> None:
        """Raises UnreachableError or TimeoutExpired, as the link does."""
        head = frames.seal(message.kind, encode(message), body, body_hash)
        with self._send_lock:
            self.sent += len(head) + (memoryview(body).nbytes if body is not None else 0)
            if body is None:
                self.link.send(head)
            else:
                self.link.send(head, body)

    def receive(self) -> tuple[Message, bytes]:
        """The next message and its body. Raises as `receive_head`: nobody asks again for a body that is damaged."""
        message, _, prefix = self.receive_head()
        body = bytearray(prefix.body_size)
        try:
            self.receive_body(prefix, memoryview(body))
        except BodyError as error:
            raise self._damaged(error) from error
        return message, bytes(body)

    def receive_head(self) -> tuple[Message, bytes, Prefix]:
        """The next message, its head as it travelled, and the prefix by which its body has to be received next.

        Raises EOFError at an orderly end, ProtocolError, DamagedLinkError, or as the link does.
        """
        self.link.receive_into(self._prefix)
        try:
            prefix = frames.parse_prefix(bytes(self._prefix), self.max_body, self.max_head)
            head = bytearray(prefix.head_size)
            if head:
                self.link.receive_into(memoryview(head))
            prefix.check_head(head)
        except DamagedError as error:
            raise self._damaged(error) from error
        except NoFrameError as error:
            if not self._speaks_frames:
                raise
            raise self._damaged(error) from error
        self._speaks_frames = True
        raw = bytes(head)
        return decode(prefix.kind, raw), raw, prefix

    def receive_body(self, prefix: Prefix, view: memoryview) -> None:
        """Fills `view`, which has the body's size. Raises BodyError when it was damaged; the channel is still good."""
        if prefix.body_size:
            self.link.receive_into(view)
            prefix.check_body(view)

    def _damaged(self, error: FrameError | BodyError) -> DamagedLinkError:
        return DamagedLinkError(f"{self.link.description}: {error}")


__all__ = ["BodyError", "Channel", "DamagedLinkError", "Meter"]
