"""`getsockopt(TCP_INFO)`: what the kernel knows of a connection (`struct tcp_info` in linux/tcp.h, as of 4.19)."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

_SIZE = 216
"""Up to and with tcpi_bytes_retrans, the newest field that is read here."""
_OPTIONS = 5
_OPTION_ECN = 8
_ROUND_TRIP_US = struct.Struct("=68xI")
_RETRANSMITS = struct.Struct("=100xI")
_ACKED = struct.Struct("=120xQ")
_RECEIVED = struct.Struct("=128xQ")
_DELIVERY_RATE = struct.Struct("=160xQ")
_SENT = struct.Struct("=200xQ")
_RESENT = struct.Struct("=208xQ")


@dataclass(frozen=True, slots=True)
class TcpInfo:
    round_trip_seconds: float
    retransmits: int
    """Segments sent again, all in all."""
    bytes_sent: int
    """Payload handed to the network, retransmissions included; what waits in the send queue does not count yet."""
    bytes_acked: int
    """Payload that the other end has confirmed."""
    bytes_resent: int
    """Payload that was sent more than once."""
    bytes_received: int
    delivery_rate: int
    """Bytes per second, as of the newest acknowledgements."""
    ecn: bool
    """Both ends agreed on explicit congestion notification."""


def read_tcp_info(sock: socket.socket) -> TcpInfo | None:
    """None where the kernel is older than 4.19, or the socket is no longer open."""
    try:
        raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    except OSError:
        return None
    return parse_tcp_info(raw)


def parse_tcp_info(raw: bytes) -> TcpInfo | None:
    """None when `raw` is shorter than what 4.19 gives."""
    if len(raw) < _SIZE:
        return None
    return TcpInfo(
        round_trip_seconds=_ROUND_TRIP_US.unpack_from(raw)[0] / 1e6,
        retransmits=_RETRANSMITS.unpack_from(raw)[0],
        bytes_sent=_SENT.unpack_from(raw)[0],
        bytes_acked=_ACKED.unpack_from(raw)[0],
        bytes_resent=_RESENT.unpack_from(raw)[0],
        bytes_received=_RECEIVED.unpack_from(raw)[0],
        delivery_rate=_DELIVERY_RATE.unpack_from(raw)[0],
        ecn=bool(raw[_OPTIONS] & _OPTION_ECN),
    )
