"""The interface of a link; `dwcp.testing.check_link` certifies an implementation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from typing_extensions import Buffer


@dataclass(frozen=True, slots=True)
class Delivery:
    """Bytes, counted from the beginning of a link. A link that cannot tell gives what it sent and received."""

    acked: int = 0
    """Confirmed by the other end."""
    resent: int = 0
    """Sent more than once."""
    received: int = 0


class Link(Protocol):
    """An ordered, reliable pipe of bytes in both directions.

    A buffer that is posted belongs to the link until the call returns; payload is never copied on our side. One thread
    may send while another receives. Errors: `UnreachableError` when the link is broken or was closed, `TimeoutExpired`
    when nothing moved for the configured time; either way the link is of no more use.
    """

    @property
    def description(self) -> str:
        """For people: `tcp 127.0.0.1:4711 -> 127.0.0.1:9000`."""
        ...

    @property
    def encrypted(self) -> bool: ...

    def send(self, *parts: Buffer) -> None:
        """Sends all of all parts, in order."""
        ...

    def receive_into(self, view: memoryview) -> None:
        """Fills all of `view`. Raises EOFError when the other end closed in good order before its first byte."""
        ...

    def set_read_timeout(self, seconds: float) -> None: ...

    def wire_bytes(self) -> tuple[int, int]:
        """(sent, received) so far, on the network: with TLS records and retransmissions, without TCP/IP headers."""
        ...

    def delivery(self) -> Delivery:
        """What became of what was sent, so far."""
        ...

    def round_trip_seconds(self) -> float | None:
        """The transport's own smoothed estimate, where it has one."""
        ...

    def set_pacing(self, bits_per_second: int | None) -> None:
        """Sends no faster than this; None lifts the limit."""
        ...

    def limit_queue(self, size: int) -> None:
        """Takes no more than about `size` bytes before the network has taken those before: what waits in one stream's
        queue cannot be taken over by another, faster one."""
        ...

    def begin_model_anew(self) -> None:
        """Has a congestion control with a model of the path (BBR) measure it anew; nothing where there is none."""
        ...

    def shutdown(self) -> None:
        """Ends whatever another thread is waiting for on this link; may be called from any thread, more than once."""
        ...

    def close(self) -> None:
        """Gives back the descriptor; only the thread that owns the link, when no other uses it."""
        ...
