"""Applies the `transport` section to a socket, reads back what the kernel made of it, and says how to get the rest."""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dwcp.units import format_rate, format_size

# linux/socket.h and linux/tcp.h; Python's socket module does not name these.
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33
SO_MAX_PACING_RATE = 47
TCP_NOTSENT_LOWAT = 25

UNSENT_LIMIT = 512 * 1024
"""Of a socket until its stream knows better: what refills it between two wake-ups of its thread at 1 Gbit/s."""
UNLIMITED = 2**64 - 1


@dataclass(frozen=True, slots=True)
class SocketOptions:
    """What the configuration asks of each TCP socket. Sizes in bytes, times in seconds."""

    congestion_algorithm: str
    enable_ecn: bool
    send_buffer_size: int
    recv_buffer_size: int
    user_timeout: float
    """Give up a connection whose data stays unacknowledged for this long."""


@dataclass(frozen=True, slots=True)
class Effective:
    """What a socket has, for people, and one sentence for each thing that it was refused."""

    settings: Mapping[str, str]
    warnings: list[str] = field(default_factory=list)


def apply(sock: socket.socket, options: SocketOptions) -> Effective:
    """Sets everything; nothing that the kernel refuses is an error. Buffers go before connect or listen, where the
    window scale is negotiated from them (tcp(7))."""
    warnings: list[str] = []
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    set_unsent_limit(sock, UNSENT_LIMIT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(options.user_timeout * 1000))
    settings = {
        "congestion_algorithm": _congestion(sock, options.congestion_algorithm, warnings),
        "enable_ecn": _ecn(options.enable_ecn, warnings),
        "send_buffer_size": _buffer(sock, "send_buffer_size", options.send_buffer_size, warnings),
        "recv_buffer_size": _buffer(sock, "recv_buffer_size", options.recv_buffer_size, warnings),
    }
    return Effective(settings, warnings)


MODEL_BASED = "bbr"


def set_pacing(sock: socket.socket, bits_per_second: int | None) -> None:
    """SO_MAX_PACING_RATE (socket(7)), which TCP obeys by itself; None lifts it."""
    rate = UNLIMITED if bits_per_second is None else max(1, bits_per_second // 8)
    sock.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, struct.pack("=Q", rate))


def set_unsent_limit(sock: socket.socket, size: int) -> None:
    """TCP_NOTSENT_LOWAT (tcp(7)): bytes that may wait in the kernel without having been sent."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, size)


def begin_model_anew(sock: socket.socket) -> None:
    """Has the kernel's BBR forget what it knows of the path, the congestion window excepted; nothing where another
    algorithm runs. Setting the one that runs already does nothing (tcp_set_congestion_control in net/ipv4/tcp_cong.c),
    so Reno, which every kernel has, runs for a moment."""
    running = _read_congestion(sock)
    if running == MODEL_BASED:
        for algorithm in ("reno", running):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, algorithm.encode())


def pacing(sock: socket.socket) -> str:
    """The rate limit as the socket has it."""
    (rate,) = struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 8))
    # a kernel that keeps 32 bits shows its own "unlimited"
    return "unlimited" if rate in (UNLIMITED, 2**32 - 1) else format_rate(rate * 8)


def _congestion(sock: socket.socket, wanted: str, warnings: list[str]) -> str:
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, wanted.encode())
    except OSError as error:
        got = _read_congestion(sock)
        warnings.append(
            f"congestion_algorithm: asked for {wanted}, got {got} ({error.strerror}); "
            f"load it with `modprobe tcp_{wanted}` and allow it in net.ipv4.tcp_allowed_congestion_control"
        )
    return _read_congestion(sock)


def _read_congestion(sock: socket.socket) -> str:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).split(b"\0")[0].decode()


def _ecn(wanted: bool, warnings: list[str]) -> str:
    """Linux has no socket option for ECN: net.ipv4.tcp_ecn decides (0 never, 1 ask and answer, 2 answer only)."""
    try:
        mode = int(Path("/proc/sys/net/ipv4/tcp_ecn").read_text())
    except (OSError, ValueError):
        warnings.append("enable_ecn: this kernel does not tell whether it uses ECN (net.ipv4.tcp_ecn cannot be read)")
        return "unknown"
    if wanted and mode != 1:
        got = "answers it only" if mode == 2 else "has it off"
        warnings.append(f"enable_ecn: asked for ECN, the kernel {got}; ask with `sysctl -w net.ipv4.tcp_ecn=1`")
    if not wanted and mode == 1:
        warnings.append("enable_ecn: ECN is not wanted, but the kernel asks for it; `sysctl -w net.ipv4.tcp_ecn=2`")
    return {0: "off", 1: "requested", 2: "if the peer asks"}.get(mode, f"mode {mode}")


def _buffer(sock: socket.socket, name: str, wanted: int, warnings: list[str]) -> str:
    send = name == "send_buffer_size"
    option = socket.SO_SNDBUF if send else socket.SO_RCVBUF
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE if send else SO_RCVBUFFORCE, wanted)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, option, wanted)
    # socket(7): the kernel doubles the value for its bookkeeping, and getsockopt returns the doubled one
    got = sock.getsockopt(socket.SOL_SOCKET, option) // 2
    if got < wanted:
        limit = "wmem_max" if send else "rmem_max"
        warnings.append(
            f"{name}: asked for {format_size(wanted)}, got {format_size(got)}; "
            f"raise it with `sysctl -w net.core.{limit}={wanted}`"
        )
    return format_size(got)
