"""Makes links: dials, or takes over an accepted socket. Plain between loopback addresses, TLS elsewhere."""

from __future__ import annotations

import errno
import ipaddress
import socket
import ssl
from dataclasses import dataclass

from dwcp.errors import ExhaustedError, RefusedError, TimeoutExpired, UnreachableError
from dwcp.links import sockopts, tls
from dwcp.links.sockopts import Effective, SocketOptions
from dwcp.links.tcp import TcpLink
from dwcp.links.tls import Resumption, TlsContexts, TlsLink

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What socket(2) and accept(2) say where the process or the machine has nothing left."""
BACKLOG = 1024
"""Connections that may wait to be accepted: all streams of one peer at once (max_streams; somaxconn caps it)."""


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """What the configuration says of links. Times in seconds."""

    options: SocketOptions
    connect_timeout: float
    read_timeout: float
    write_timeout: float
    tls: str
    """auto, always or never."""
    contexts: TlsContexts
    connect_limit: str = "transport.connect_timeout"
    """The key that `connect_timeout` comes from."""


def split_address(address: str) -> tuple[str, int]:
    """`HOST:PORT`, `[IPv6]:PORT` or `:PORT`; the host is empty for all addresses."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Of a numeric address; IPv4 in IPv6 clothes counts as what it is."""
    try:
        address = ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def dial(
    address: str, settings: LinkSettings, resumption: Resumption | None = None
) -> tuple[TcpLink | TlsLink, Effective]:
    """`connect` and `secure` in one."""
    sock, effective = connect(address, settings)
    return secure(sock, address, settings, resumption), effective


def connect(address: str, settings: LinkSettings) -> tuple[socket.socket, Effective]:
    """A connected socket, and what it was given. Tries every address that the name of `HOST:PORT` has.

    Raises UnreachableError, or ExhaustedError where that is this machine's fault.
    """
    host, port = split_address(address)
    try:
        candidates = socket.getaddrinfo(host or "localhost", port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UnreachableError(f"cannot resolve {host!r}: {error.strerror}; check the peer's address") from error
    failures = []
    for family, kind, protocol, _, target in candidates:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            if error.errno in EXHAUSTED:
                raise ExhaustedError(f"no connection can be made from here: {error.strerror}") from error
            failures.append(error.strerror or str(error))
            continue
        try:
            effective = sockopts.apply(sock, settings.options)
            sock.settimeout(settings.connect_timeout)
            sock.connect(target)
            return sock, effective
        except TimeoutError:
            sock.close()
            failures.append(_late(settings))
        except OSError as error:
            sock.close()
            failures.append(error.strerror or str(error))
    raise _cannot(address, "; ".join(dict.fromkeys(failures)))


def secure(
    sock: socket.socket, address: str, settings: LinkSettings, resumption: Resumption | None = None
) -> TcpLink | TlsLink:
    """The link on a connected socket, which it takes over. With `resumption` TLS goes on with its session, where it has
    one, and leaves it there for the next. Raises UnreachableError."""
    try:
        local = is_loopback(sock.getpeername()[0])
        if settings.tls == "never" or (settings.tls == "auto" and local):
            return TcpLink(sock, read_timeout=settings.read_timeout, write_timeout=settings.write_timeout)
        context = settings.contexts.client
        secured = context.wrap_socket(sock, session=resumption.offer(context) if resumption is not None else None)
        return _tls_link(secured, settings.read_timeout, settings.write_timeout, resumption)
    except TimeoutError as error:
        sock.close()
        raise _cannot(address, _late(settings)) from error
    except ssl.SSLError as error:
        sock.close()
        raise _cannot(address, f"TLS failed: {error.reason or error}") from error
    except OSError as error:
        sock.close()
        raise _cannot(address, error.strerror or str(error)) from error
    except UnreachableError as error:
        sock.close()
        raise _cannot(address, str(error)) from error


def _tls_link(secured: ssl.SSLSocket, read: float, write: float, resumption: Resumption | None = None) -> TlsLink:
    try:
        return TlsLink(secured, read_timeout=read, write_timeout=write, resumption=resumption)
    except UnreachableError:
        # it has taken the descriptor over from the socket that the caller would close
        secured.close()
        raise


def _late(settings: LinkSettings) -> str:
    return f"no answer within {settings.connect_timeout:g} s ({settings.connect_limit})"


def _cannot(address: str, why: str) -> UnreachableError:
    return UnreachableError(f"cannot connect to {address}: {why}")


def take_over(sock: socket.socket, settings: LinkSettings, handshake_timeout: float) -> TcpLink | TlsLink:
    """The link on an accepted socket: its first byte tells TLS from plain, the policy says which may be.

    Raises RefusedError, UnreachableError or TimeoutExpired, and EOFError when it ended before its first byte; the
    socket is the caller's to close then.
    """
    sockopts.apply(sock, settings.options)
    sock.settimeout(handshake_timeout)
    try:
        first = sock.recv(1, socket.MSG_PEEK)
        if not first:
            raise EOFError
        if first[0] == tls.FIRST_BYTE:
            secured = settings.contexts.server.wrap_socket(sock, server_side=True)
            return _tls_link(secured, handshake_timeout, settings.write_timeout)
        local = is_loopback(sock.getpeername()[0])
        if settings.tls == "always" or (settings.tls == "auto" and not local):
            raise RefusedError(f"{sock.getpeername()[0]} speaks without TLS, which only loopback may (security.tls)")
        return TcpLink(sock, read_timeout=handshake_timeout, write_timeout=settings.write_timeout)
    except TimeoutError as error:
        raise TimeoutExpired(f"a connection said nothing for {handshake_timeout:g} s") from error
    except OSError as error:
        raise UnreachableError(f"a connection was lost in its first moments: {error.strerror or error}") from error


def listen(address: str, options: SocketOptions) -> socket.socket:
    """A listening socket on `HOST:PORT`; both IP versions where the host is empty.

    Buffers are set before, because accepted sockets inherit the window scale that follows from them (tcp(7)).
    Raises UnreachableError when the address cannot be had.
    """
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host or (not host and socket.has_dualstack_ipv6()) else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(host)))
        sockopts.apply(sock, options)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise UnreachableError(
            f"cannot listen on {address}: {error.strerror}; see who has it with `ss -ltnp`, or change transport.listen"
        ) from error
    return sock
