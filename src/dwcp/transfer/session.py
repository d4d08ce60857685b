"""What both ends of a session do alike: the handshake over a channel, and signs of life when nothing is to be said."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TypeVar

from dwcp.errors import AuthenticationError, DwcpError, ProtocolError, UnreachableError, from_code
from dwcp.links.endpoints import dial
from dwcp.links.interface import Link
from dwcp.links.sockopts import Effective
from dwcp.links.tls import Resumption, TlsLink
from dwcp.store.identity import public_key_of
from dwcp.transfer.channel import Channel
from dwcp.transfer.credentials import Credentials
from dwcp.transfer.node import Node
from dwcp.wire import messages as m
from dwcp.wire.frames import NO_BODY
from dwcp.wire.handshake import Initiator, Responder, fingerprint, join

M = TypeVar("M", bound=m.Message)

LIVELY = 3
"""Signs of life in each read timeout, so that two may be lost."""


PARTING = 2.0
"""Seconds that a peer gets to end a connection in good order."""


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
        self.channel = session.channel
        self._session: Dialled | None = session
        self._heartbeat = Heartbeat(session.channel, read_timeout)
        self._heartbeat.__enter__()

    def take(self) -> Dialled | None:
        """The session, for its only user; None when it was taken before."""
        session, self._session = self._session, None
        self._heartbeat.__exit__()
        return session


def shutdown_later(link: Link) -> threading.Timer:
    """Ends a connection whose peer has just been told why and should end it; at once would destroy the message.

    Whoever sees the peer leave by itself may cancel it.
    """
    timer = threading.Timer(PARTING, link.shutdown)
    timer.daemon = True
    timer.start()
    return timer


@dataclass(frozen=True, slots=True)
class Dialled:
    """A session as its initiator holds it."""

    channel: Channel
    welcome: m.Welcome
    peer_key: bytes
    effective: Effective
    node_name: str
    features: frozenset[str]
    """What the peer can do beyond what every peer can."""
    credentials: Credentials
    resumption: Resumption


def dial_session(node: Node, address: str, pinned: str) -> Dialled:
    """Connects and proves both identities. Raises UnreachableError, TimeoutExpired, ProtocolError, VersionError or
    AuthenticationError."""
    credentials, resumption = node.credentials(), Resumption()
    link, effective = dial(address, node.link_settings(credentials), resumption)
    channel = Channel(link, NO_BODY)
    try:
        initiator = Initiator(node.introduction(credentials), pinned)
        channel.send(initiator.hello())
        reply, reply_head = _expect(channel, m.HelloReply)
        proof, _ = _expect(channel, m.Auth)
        answer = initiator.answer(reply, reply_head, proof)
        check_certificate(channel, reply.key)
        channel.send(answer)
        welcome, _ = _expect(channel, m.Welcome)
    except EOFError as error:
        link.close()
        raise UnreachableError(f"{address} closed the connection during the handshake; its log says why") from error
    except DwcpError:
        link.close()
        raise
    return Dialled(
        channel, welcome, reply.key, effective, reply.node, frozenset(reply.features), credentials, resumption
    )


def discover(node: Node, address: str) -> tuple[str, str]:
    """(fingerprint, name) of whoever listens there: its key is proved, its name is what it says. Raises as
    `dial_session`."""
    credentials = node.credentials()
    link, _ = dial(address, node.link_settings(credentials))
    channel = Channel(link, NO_BODY)
    try:
        initiator = Initiator(node.introduction(credentials), None)
        channel.send(initiator.hello())
        reply, reply_head = _expect(channel, m.HelloReply)
        proof, _ = _expect(channel, m.Auth)
        initiator.answer(reply, reply_head, proof)
        check_certificate(channel, reply.key)
    except EOFError as error:
        raise UnreachableError(f"{address} closed the connection during the handshake; its log says why") from error
    finally:
        link.close()
    return fingerprint(reply.key), reply.node


def dial_stream(node: Node, address: str, session: Dialled, number: int) -> Channel:
    """A further connection of a session; `confirm_stream` tells whether the peer takes it. Raises as `dial_session`."""
    link, _ = dial(address, node.link_settings(session.credentials), session.resumption)
    channel = Channel(link, NO_BODY)
    try:
        check_certificate(channel, session.peer_key)
        channel.send(join(session.welcome, number))
    except DwcpError:
        link.close()
        raise
    return channel


def confirm_stream(channel: Channel) -> None:
    """Waits for the peer's word on a connection that joined a session. Raises as `dial_session`."""
    try:
        _expect(channel, m.Joined)
    except EOFError as error:
        description = channel.link.description
        raise UnreachableError(f"{description}: the peer closed a data connection during the handshake") from error


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
