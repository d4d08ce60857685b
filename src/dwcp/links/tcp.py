"""A link on a blocking TCP socket. Every system call releases the GIL, so a thread a stream keeps both cores busy."""

from __future__ import annotations

import socket
import struct

from typing_extensions import Buffer

from dwcp.errors import UnreachableError
from dwcp.links import sockopts
from dwcp.links.failures import LinkFailures
from dwcp.links.interface import Delivery
from dwcp.links.tcp_info import read_tcp_info

IOV_MAX = 1024
"""limits.h: buffers in one sendmsg."""


class SocketLink(LinkFailures):
    """What every link on a TCP socket shares; `interface.Link` says what the methods promise."""

    def __init__(self, sock: socket.socket, kind: str, read_timeout: float, write_timeout: float) -> None:
        """Takes the connected socket over. Times in seconds."""
        self._sock = sock
        self._read_timeout = read_timeout
        self._write_timeout = write_timeout
        try:
            self._description = f"{kind} {_name(sock.getsockname())} - {_name(sock.getpeername())}"
        except OSError as error:
            raise UnreachableError(f"a connection was lost as soon as it was made ({error.strerror})") from error

    def wire_bytes(self) -> tuple[int, int]:
        info = read_tcp_info(self._sock)
        return (info.bytes_sent, info.bytes_received) if info else (0, 0)

    def delivery(self) -> Delivery:
        info = read_tcp_info(self._sock)
        return Delivery(info.bytes_acked, info.bytes_resent, info.bytes_received) if info else Delivery()

    def round_trip_seconds(self) -> float | None:
        info = read_tcp_info(self._sock)
        return info.round_trip_seconds if info else None

    def set_pacing(self, bits_per_second: int | None) -> None:
        try:
            sockopts.set_pacing(self._sock, bits_per_second)
        except OSError as error:
            raise self._broken(error) from error

    def limit_queue(self, size: int) -> None:
        try:
            sockopts.set_unsent_limit(self._sock, size)
        except OSError as error:
            raise self._broken(error) from error

    def begin_model_anew(self) -> None:
        try:
            sockopts.begin_model_anew(self._sock)
        except OSError as error:
            raise self._broken(error) from error

    def shutdown(self) -> None:
        try:
            # not SSLSocket.shutdown, which drops the TLS object while another thread may be inside of it
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
        except OSError:
            # not connected any more: nobody can be waiting on it
            return

    def fileno(self) -> int:
        """For polling beside something else."""
        return self._sock.fileno()

    def finish(self) -> None:
        """Says that no more will be sent; receiving goes on. Raises UnreachableError."""
        try:
            socket.socket.shutdown(self._sock, socket.SHUT_WR)
        except OSError as error:
            raise self._broken(error) from error

    def close(self) -> None:
        self._sock.close()

    def _broken(self, error: OSError) -> UnreachableError:
        return self._lost(error.strerror or error)


class TcpLink(SocketLink):
    """A plain connection. Timeouts are the kernel's (SO_RCVTIMEO, SO_SNDTIMEO): the socket stays truly blocking, and a
    large receive is one system call (MSG_WAITALL)."""

    encrypted = False

    def __init__(self, sock: socket.socket, *, read_timeout: float, write_timeout: float) -> None:
        super().__init__(sock, "tcp", read_timeout, write_timeout)
        sock.settimeout(None)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(write_timeout))
        self.set_read_timeout(read_timeout)

    def set_read_timeout(self, seconds: float) -> None:
        self._read_timeout = seconds
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(seconds))

    def send(self, *parts: Buffer) -> None:
        views = [memoryview(part).cast("B") for part in parts]
        try:
            while views:
                sent = self._sock.sendmsg(views[:IOV_MAX])
                while views and sent >= len(views[0]):
                    sent -= len(views.pop(0))
                if sent:
                    views[0] = views[0][sent:]
        except BlockingIOError as error:
            raise self._stuck() from error
        except OSError as error:
            raise self._broken(error) from error

    def receive_into(self, view: memoryview) -> None:
        wanted, got = view.nbytes, 0
        try:
            while got < wanted:
                count = self._sock.recv_into(view[got:], wanted - got, socket.MSG_WAITALL)
                if not count:
                    if got == 0:
                        raise EOFError
                    raise self._cut_off()
                got += count
        except BlockingIOError as error:
            raise self._silent() from error
        except OSError as error:
            raise self._broken(error) from error


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))


def _name(address: tuple[object, ...]) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
