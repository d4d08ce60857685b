"""TLS 1.3 around a TCP socket. Certificates only carry the identity keys; `wire.handshake` proves and pins them.

OpenSSL's object for a connection must not be used by two threads at once, and one thread may have to send while another
waits for input. So the socket is non-blocking, OpenSSL is called under a lock, and waiting is done outside of it.
"""

from __future__ import annotations

import os
import select
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from typing_extensions import Buffer

from dwcp.errors import TimeoutExpired, UnreachableError
from dwcp.links.tcp import SocketLink

SEND_PIECE = 256 * 1024
"""Bytes encrypted under one hold of the lock, so that the reading thread isn't kept out for a whole block."""
FIRST_BYTE = 0x16
"""RFC 8446, 5.1: a TLS connection begins with a handshake record, a plain one of ours with a frame's magic."""


TICKETS = 1
"""Session tickets for each handshake (RFC 8446, 4.6.1). OpenSSL sends two, for clients that use each once; ours uses
one for all streams of a session, which name their session anyway, so that linking them (C.4 there) tells nothing."""
SUITES_AES = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
SUITES_CHACHA = "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384"


@dataclass(frozen=True, slots=True)
class TlsContexts:
    """Both roles of one certificate and key. Made once, because making one costs as much as a handshake (0.8 ms), and
    because a session can be resumed only in the context that it began in."""

    client: ssl.SSLContext
    server: ssl.SSLContext


def make_contexts(key: bytes, server_certificate: bytes, client_certificate: bytes, issuer: bytes) -> TlsContexts:
    """From PEM: the node's key, what it shows to whoever calls and to whom it calls, and who issues the latter.

    Raises ssl.SSLError when they don't belong together.
    """
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    # any certificate will do here: whose key it must be is checked against the proved identity right after
    client.verify_mode = ssl.CERT_NONE
    _load(client, client_certificate + key)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.num_tickets = TICKETS
    _load(server, server_certificate + key)
    # the same in the other direction, but a server must name an issuer: see `store.link_certificate`
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(cadata=issuer.decode())
    suites = preferred_suites(Path("/proc/cpuinfo").read_text())
    for context in (client, server):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        _prefer(context, suites)
    return TlsContexts(client, server)


def preferred_suites(cpuinfo: str) -> str:
    """AES first where the processor has instructions for it, in OpenSSL's notation. `cpuinfo`: proc_cpuinfo(5)."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in ("flags", "features"):
            return SUITES_AES if "aes" in value.split() else SUITES_CHACHA
    return SUITES_AES


def _prefer(context: ssl.SSLContext, suites: str) -> None:
    """`set_ciphers` is about TLS 1.2 and older only; TLS 1.3 has a call of its own since Python 3.15. Before, OpenSSL's
    order holds (AES-256-GCM, ChaCha20, AES-128-GCM), which only its own configuration file can change. With AES
    instructions the difference is small: 4.1, 4.0 and 3.7 GB/s for AES-128, AES-256 and ChaCha20 on one core of the
    machine this was written on. Without them ChaCha20 is several times as fast: there a newer Python pays."""
    set_ciphersuites = getattr(context, "set_ciphersuites", None)
    if set_ciphersuites is not None:
        set_ciphersuites(suites)


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """`load_cert_chain` takes files only; one in memory cannot change between a look and the next."""
    descriptor = os.memfd_create("dwcp-certificate", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, pem)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


class Resumption:
    """What the connections of one session hand on, so that only the first costs a full TLS handshake (RFC 8446, 2.2).

    A resumed connection shows the certificate of the one that it resumes: OpenSSL keeps it with the session. Threads
    may share one.
    """

    def __init__(self) -> None:
        self._held: tuple[ssl.SSLContext, ssl.SSLSession] | None = None

    def offer(self, context: ssl.SSLContext) -> ssl.SSLSession | None:
        """None where there is none yet, or where it began in another context: the certificate has changed since."""
        held = self._held
        return held[1] if held is not None and held[0] is context else None

    def keep(self, sock: ssl.SSLSocket) -> None:
        """The newest ticket: one that a restarted peer gave replaces one that it no longer knows."""
        session = sock.session
        if session is not None and session.has_ticket:
            self._held = (sock.context, session)


class TlsLink(SocketLink):
    """See `interface.Link`."""

    encrypted = True

    def __init__(
        self, sock: ssl.SSLSocket, *, read_timeout: float, write_timeout: float, resumption: Resumption | None = None
    ) -> None:
        """Takes the socket over, its TLS handshake done. Times in seconds. `resumption` gets the session's ticket."""
        super().__init__(sock, "tls", read_timeout, write_timeout)
        sock.settimeout(0)
        self._tls = sock
        self._resumption = resumption
        self._lock = threading.Lock()

    def peer_certificate(self) -> bytes:
        """DER; empty when the peer showed none."""
        return self._tls.getpeercert(binary_form=True) or b""

    @property
    def resumed(self) -> bool:
        """Whether the handshake was an abbreviated one."""
        return bool(self._tls.session_reused)

    def set_read_timeout(self, seconds: float) -> None:
        self._read_timeout = seconds

    def send(self, *parts: Buffer) -> None:
        for part in parts:
            view = memoryview(part).cast("B")
            while view:
                sent = self._when_ready(partial(self._tls.send, view[:SEND_PIECE]), self._write_timeout, self._stuck)
                if not sent:
                    # what OpenSSL calls a closed connection here is one that a fatal alert of the peer has ended
                    raise UnreachableError(f"{self._description}: the peer has ended the connection")
                view = view[sent:]

    def receive_into(self, view: memoryview) -> None:
        wanted, got = view.nbytes, 0
        while got < wanted:
            count = self._when_ready(partial(self._tls.recv_into, view[got:]), self._read_timeout, self._silent)
            if not count:
                raise self._cut_off() if got else EOFError
            got += count
        if self._resumption is not None:
            # tickets come behind the handshake: they are there once something was read
            with self._lock:
                self._resumption.keep(self._tls)
            self._resumption = None

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
            except ssl.SSLEOFError as error:
                raise UnreachableError(f"{self._description}: the peer closed the connection without a word") from error
            except ssl.SSLError as error:
                raise UnreachableError(f"{self._description}: TLS failed ({error.reason or error})") from error
            except OSError as error:
                raise self._broken(error) from error
            waiter = select.poll()
            waiter.register(self._tls, event)
            if not waiter.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise late()
