"""What both ends of a session do alike: the handshake over a channel, and signs of life when nothing is to be said."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TypeVar

from dwcp.errors import AuthenticationError, DwcpError, ProtocolError, from_code
from dwcp.links.endpoints import dial
from dwcp.links.interface import Link
from dwcp.links.sockopts import Effective
from dwcp.links.tls import TlsLink
from dwcp.store.identity import public_key_of
from dwcp.transfer.channel import Channel
from dwcp.transfer.node import Node
from dwcp.wire import messages as m
from dwcp.wire.frames import NO_BODY
from dwcp.wire.handshake import Initiator, Responder, join

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


def dial_session(node: Node, address: str, fingerprint: str) -> Dialled:
    """Connects and proves both identities. Raises UnreachableError, TimeoutExpired, ProtocolError, VersionError or
    AuthenticationError."""
    settings = node.link_settings()
    link, effective = dial(address, settings)
    channel = Channel(link, NO_BODY)
    try:
        initiator = Initiator(node.introduction(), fingerprint)
        channel.send(initiator.hello())
        reply, reply_head = _expect(channel, m.HelloReply)
        proof, _ = _expect(channel, m.Auth)
        answer = initiator.answer(reply, reply_head, proof)
        _check_certificate(channel, reply.key)
        channel.send(answer)
        welcome, _ = _expect(channel, m.Welcome)
    except EOFError as error:
        link.close()
        raise ProtocolError(f"{address} closed the connection during the handshake; its log says why") from error
    except DwcpError:
        link.close()
        raise
    return Dialled(channel, welcome, reply.key, effective, reply.node)


def dial_stream(node: Node, address: str, session: Dialled, number: int) -> Channel:
    """A further connection of a session. Raises as `dial_session`."""
    link, _ = dial(address, node.link_settings())
    channel = Channel(link, NO_BODY)
    try:
        _check_certificate(channel, session.peer_key)
        channel.send(join(session.welcome, number))
        _expect(channel, m.Joined)
    except EOFError as error:
        link.close()
        raise ProtocolError(f"{address} closed a data connection during the handshake") from error
    except DwcpError:
        link.close()
        raise
    return channel


def respond(node: Node, channel: Channel, hello: m.Hello, hello_head: bytes, welcome: m.Welcome) -> str:
    """The responder's part once HELLO is there: the peer's configured name, proved. Raises as `dial_session`."""
    responder = Responder(node.introduction(), node.trust)
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


def _check_certificate(channel: Channel, key: bytes) -> None:
    """Under TLS the channel must end at the identity that proved itself, not at somebody in between."""
    if isinstance(channel.link, TlsLink) and public_key_of(channel.link.peer_certificate()) != key:
        raise AuthenticationError(f"{channel.link.description}: the TLS certificate is not that of the pinned identity")
