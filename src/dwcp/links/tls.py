"""TLS 1.3 around a TCP socket. The certificate only carries the identity key; `wire.handshake` proves and pins it.

OpenSSL's object for a connection must not be used by two threads at once, and one thread may have to send while another
waits for input. So the socket is non-blocking, OpenSSL is called under a lock, and waiting is done outside of it.
"""

from __future__ import annotations

import select
import ssl
import threading
import time
from collections.abc import Callable
from functools import partial

from typing_extensions import Buffer

from dwcp.errors import TimeoutExpired, UnreachableError
from dwcp.links.tcp import SocketLink

SEND_PIECE = 256 * 1024
"""Bytes encrypted under one hold of the lock, so that the reading thread isn't kept out for a whole block."""
FIRST_BYTE = 0x16
"""RFC 8446, 5.1: a TLS connection begins with a handshake record, a plain one of ours with a frame's magic."""


def client_context() -> ssl.SSLContext:
    """Takes any certificate: whose key it must be is checked against the pinned fingerprint right after."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def server_context(certificate_file: str, key_file: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(certificate_file, key_file)
    return context


class TlsLink(SocketLink):
    """See `interface.Link`."""

    encrypted = True

    def __init__(self, sock: ssl.SSLSocket, *, read_timeout: float, write_timeout: float) -> None:
        """Takes the socket over, its TLS handshake done. Times in seconds."""
        super().__init__(sock, "tls", read_timeout, write_timeout)
        sock.settimeout(0)
        self._tls = sock
        self._lock = threading.Lock()

    def peer_certificate(self) -> bytes:
        """DER; empty when the peer showed none."""
        return self._tls.getpeercert(binary_form=True) or b""

    def set_read_timeout(self, seconds: float) -> None:
        self._read_timeout = seconds

    def send(self, *parts: Buffer) -> None:
        for part in parts:
            view = memoryview(part).cast("B")
            while view:
                sent = self._when_ready(partial(self._tls.send, view[:SEND_PIECE]), self._write_timeout, self._stuck)
                view = view[sent:]

    def receive_into(self, view: memoryview) -> None:
        wanted, got = view.nbytes, 0
        while got < wanted:
            count = self._when_ready(partial(self._tls.recv_into, view[got:]), self._read_timeout, self._silent)
            if not count:
                raise self._cut_off() if got else EOFError
            got += count

    def _when_ready(self, call: Callable[[], int], timeout: float, late: Callable[[], TimeoutExpired]) -> int:
        deadline = time.monotonic() + timeout
        while True:
            try:
                with self._lock:
                    return call()
            except ssl.SSLWantReadError:
                event = select.POLLIN
            except ssl.SSLWantWriteError:
                event = select.POLLOUT
            except ssl.SSLZeroReturnError:
                return 0
            except ssl.SSLError as error:
                raise UnreachableError(f"{self._description}: TLS failed ({error.reason or error})") from error
            except OSError as error:
                raise self._broken(error) from error
            waiter = select.poll()
            waiter.register(self._tls, event)
            if not waiter.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise late()
