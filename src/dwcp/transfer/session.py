"""What both ends of a session do alike: the handshake over a channel, and signs of life when nothing is to be said."""

from __future__ import annotations

import contextlib
import math
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import structlog

from dwcp.config.model import BY_AUTHORITY
from dwcp.errors import AuthenticationError, DwcpError, ProtocolError, RefusedError, UnreachableError, from_code
from dwcp.links.endpoints import connect, dial, secure
from dwcp.links.interface import Link
from dwcp.links.sockopts import Effective
from dwcp.links.tcp import TcpLink
from dwcp.links.tls import Resumption, TlsLink
from dwcp.links.ucx import UcxEnd
from dwcp.store.identity import public_key_of
from dwcp.transfer.ahead import Ahead
from dwcp.transfer.channel import Channel
from dwcp.transfer.credentials import Credentials
from dwcp.transfer.node import Node
from dwcp.tuning.leaves import FAR
from dwcp.wire import messages as m
from dwcp.wire.frames import MAX_HEAD, MAX_HEAD_BEFORE_WELCOME, NO_BODY
from dwcp.wire.handshake import RDMA, Initiator, Objection, Responder, fingerprint, join

M = TypeVar("M", bound=m.Message)

log = structlog.get_logger()

LIVELY = 3
"""Signs of life in each read timeout, so that two may be lost."""
PARTING = 2.0
"""Seconds that a peer gets to end a connection in good order."""
DIALS_AT_ONCE = 32
"""Connections that are begun at one time, so that twelve transfers fit what a peer takes from one address
(security.max_pending_per_address)."""


class Heartbeat:
    """PINGs a control connection from its own thread until closed, however long its owner works on something."""

    def __init__(self, channel: Channel, read_timeout: float) -> None:
        self._channel = channel
        self._interval = read_timeout / LIVELY
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dwcp-heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(self._interval):
            try:
                self._channel.send(m.Ping())
            except DwcpError:
                # the reader of the connection finds out by itself and knows what to do
                return


class Standby:
    """A proved session that nobody uses yet: it says signs of life until somebody takes it over."""

    def __init__(self, session: Dialled, read_timeout: float) -> None:
        self.session = session
        self._free = True
        self._heartbeat = Heartbeat(session.channel, read_timeout)
        self._heartbeat.__enter__()

    def take(self) -> Dialled | None:
        """The session, for its only user; None when it was taken before."""
        free, self._free = self._free, False
        self._heartbeat.__exit__()
        return self.session if free else None


def shutdown_later(link: Link) -> threading.Timer:
    """Ends a connection whose peer has just been told why and should end it; at once would destroy the message.

    Whoever sees the peer leave by itself may cancel it.
    """
    timer = threading.Timer(PARTING, link.shutdown)
    timer.daemon = True
    timer.start()
    return timer


def part(channel: Channel) -> None:
    """Reads what a peer sent before it could know that it is refused, until it leaves: a connection that is closed over
    unread bytes is reset, and a reset takes the answer with it (RFC 9293, 3.10.4)."""
    timer = shutdown_later(channel.link)
    scratch = memoryview(bytearray(4096))
    with contextlib.suppress(EOFError, DwcpError):
        # it has been told; how it leaves is its own affair
        while True:
            channel.link.receive_into(scratch)
    timer.cancel()


@dataclass(slots=True)
class Dialled:
    """A session as its initiator holds it. The peer has proved who it is. That it takes us, its WELCOME will tell; it
    comes like an answer to the first request, and without it no data connection joins."""

    channel: Channel
    peer_key: bytes
    effective: Effective
    node_name: str
    features: frozenset[str]
    """What the peer can do beyond what every peer can."""
    credentials: Credentials
    resumption: Resumption
    rdma: bool
    """Both ends have said that they can."""
    ahead: Ahead
    _welcome: m.Welcome | None = None
    _decided: threading.Event = field(default_factory=threading.Event)

    def admit(self, welcome: m.Welcome) -> None:
        """Whoever reads the control connection has got it. Raises ProtocolError for a second one."""
        if self._welcome is not None:
            raise ProtocolError(f"{self.channel.link.description}: the peer says WELCOME twice")
        self._welcome = welcome
        self._decided.set()

    def wait_welcome(self) -> m.Welcome:
        """Raises UnreachableError when the session has ended without."""
        self._decided.wait()
        if self._welcome is None:
            raise UnreachableError(
                f"{self.channel.link.description}: the session ended before its first data connection"
            )
        return self._welcome

    def end(self) -> None:
        """Nobody reads the control connection any more: whoever waits for WELCOME waits in vain."""
        self._decided.set()
        self.ahead.close()


def dial_session(node: Node, address: str, expected: str, patience: float = math.inf) -> Dialled:
    """A session that the peer has agreed to. Raises as `begin_session`; AuthenticationError also when the peer does not
    know this node."""
    session = begin_session(node, address, expected, patience=patience)
    try:
        welcome, _ = _expect(session.channel, m.Welcome)
        session.admit(welcome)
    except EOFError as error:
        session.channel.link.close()
        raise _turned_away(address) from error
    except DwcpError:
        session.channel.link.close()
        raise
    return session


def begin_session(node: Node, address: str, expected: str, ahead: int = 0, patience: float = math.inf) -> Dialled:
    """Connects and proves both identities; `expected` as `Node.address_of` gives it. On long links, `ahead`
    connections for streams are begun meanwhile. `patience`: seconds that each wait is at the most.

    Raises UnreachableError, TimeoutExpired, ProtocolError, VersionError or AuthenticationError.
    """
    credentials, resumption = node.credentials(), Resumption()
    settings = node.link_settings(credentials, patience)
    link, effective = dial(address, settings, resumption)
    channel = Channel(link, NO_BODY, MAX_HEAD_BEFORE_WELCOME)
    spare = Ahead(address, settings)
    if (link.round_trip_seconds() or 0.0) >= FAR:
        spare.begin(min(ahead, DIALS_AT_ONCE))
    try:
        introduction = node.introduction(credentials)
        reply, answer = _meet(channel, Initiator(introduction, _expectation(node, expected)))
        channel.send(answer)
    except EOFError as error:
        spare.close()
        link.close()
        raise _turned_away(address) from error
    except DwcpError:
        spare.close()
        link.close()
        raise
    channel.max_head = MAX_HEAD
    return Dialled(
        channel,
        reply.key,
        effective,
        reply.node,
        frozenset(reply.features),
        credentials,
        resumption,
        RDMA in introduction.also and RDMA in reply.features,
        spare,
    )


def discover(node: Node, address: str) -> tuple[str, str]:
    """(fingerprint, name) of whoever listens there: its key is proved, its name is what it says. Raises as
    `dial_session`."""
    credentials = node.credentials()
    link, _ = dial(address, node.link_settings(credentials))
    channel = Channel(link, NO_BODY, MAX_HEAD_BEFORE_WELCOME)
    try:
        reply, _ = _meet(channel, Initiator(node.introduction(credentials), lambda _: ""))
    except EOFError as error:
        raise _turned_away(address) from error
    finally:
        link.close()
    return fingerprint(reply.key), reply.node


def _meet(channel: Channel, initiator: Initiator) -> tuple[m.HelloReply, m.Auth]:
    """Who answers, once that is proved, and what proves us to it."""
    channel.send(initiator.hello())
    reply, reply_head = _expect(channel, m.HelloReply)
    proof, _ = _expect(channel, m.Auth)
    answer = initiator.answer(reply, reply_head, proof)
    check_certificate(channel, reply.key)
    return reply, answer


def _turned_away(address: str) -> UnreachableError:
    """Worth another try: a peer that is full, or stopping, has no more to say than this."""
    return UnreachableError(
        f"{address} closed the connection during the handshake: it has too many at a time, is stopping, or wants TLS; "
        f"its log says which"
    )


def _expectation(node: Node, expected: str) -> str | Objection:
    kind, _, name = expected.partition(":")
    return partial(node.objection, name) if kind == BY_AUTHORITY else expected


def dial_stream(
    node: Node,
    address: str,
    session: Dialled,
    number: int,
    rdma: bytes = b"",
    *,
    probe: bool = False,
    patience: float = math.inf,
) -> Channel:
    """A further connection of a session; `confirm_stream` tells whether the peer takes it. `rdma`, `probe`: see
    `m.Join`. Raises as `dial_session`."""
    settings = node.link_settings(session.credentials, patience)
    sock = session.ahead.take() or connect(address, settings)[0]
    link = secure(sock, address, settings, session.resumption)
    channel = Channel(link, NO_BODY, MAX_HEAD_BEFORE_WELCOME)
    try:
        check_certificate(channel, session.peer_key)
        channel.send(join(session.wait_welcome(), number, rdma, probe=probe))
    except DwcpError:
        link.close()
        raise
    return channel


def dial_stream_over_rdma(node: Node, address: str, session: Dialled, number: int, end: UcxEnd) -> Channel:
    """As `dial_stream`, but the peer has confirmed it already: over RDMA where it can, else over what carried the JOIN.
    Raises as `dial_session`."""
    channel = dial_stream(node, address, session, number, end.address)
    try:
        joined = confirm_stream(channel)
        return _onto_rdma(node, end, joined.rdma, channel) if joined.rdma else channel
    except DwcpError:
        channel.link.close()
        raise


def answer_stream(node: Node, channel: Channel, theirs: bytes) -> Channel:
    """The responder's side: what the stream goes over from now on. Raises as `dial_session`; where RDMA is wanted and
    cannot be had, UnreachableError only with transport.rdma_required."""
    ours, over = b"", channel
    if theirs and node.rdma.enabled:
        try:
            end = node.rdma.open()
            ours, over = end.address, _onto_rdma(node, end, theirs, channel)
        except UnreachableError as error:
            if node.rdma.required:
                raise
            log.warning("a stream goes over TCP", link=channel.link.description, reason=str(error))
    elif node.rdma.required:
        raise RefusedError("this node takes blocks over RDMA only (transport.rdma_required)")
    channel.send(m.Joined(rdma=ours))
    return over


def _onto_rdma(node: Node, end: UcxEnd, theirs: bytes, channel: Channel) -> Channel:
    companion, transport = channel.link, node.config.transport
    if not isinstance(companion, TcpLink | TlsLink):
        raise UnreachableError(f"{companion.description} cannot be the companion of a UCX link")
    link = end.connect(theirs, companion, read_timeout=transport.read_timeout, write_timeout=transport.write_timeout)
    return Channel(link, channel.max_body, channel.max_head)


def confirm_stream(channel: Channel) -> m.Joined:
    """Waits for the peer's word on a connection that joined a session. Raises as `dial_session`."""
    try:
        joined, _ = _expect(channel, m.Joined)
    except EOFError as error:
        description = channel.link.description
        raise UnreachableError(f"{description}: the peer closed a data connection during the handshake") from error
    channel.max_head = MAX_HEAD
    return joined


def respond(
    node: Node, credentials: Credentials, channel: Channel, hello: m.Hello, hello_head: bytes, welcome: m.Welcome
) -> str:
    """The responder's part once HELLO is there: the peer's configured name, proved. Raises as `dial_session`."""
    check_certificate(channel, hello.key)
    responder = Responder(node.introduction(credentials), node.trust)
    reply, proof = responder.reply(hello, hello_head)
    channel.send(reply)
    channel.send(proof)
    auth, _ = _expect(channel, m.Auth)
    name = responder.accept(auth)
    channel.send(welcome)
    return name


def _expect(channel: Channel, kind: type[M]) -> tuple[M, bytes]:
    message, head, _ = channel.receive_head()
    if isinstance(message, m.Error):
        raise from_code(message.code, message.message)
    if not isinstance(message, kind):
        raise ProtocolError(f"the peer sent a {type(message).__name__} where a {kind.__name__} belongs")
    return message, head


def check_certificate(channel: Channel, key: bytes) -> None:
    """Under TLS the channel must end at the identity that proves itself, not at somebody in between. Both ends ask,
    on every connection of a session. Raises AuthenticationError."""
    if isinstance(channel.link, TlsLink) and public_key_of(channel.link.peer_certificate()) != key:
        raise AuthenticationError(f"{channel.link.description}: the TLS certificate is not that of the proved identity")
