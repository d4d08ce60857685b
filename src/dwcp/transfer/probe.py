"""A cheap look at a peer: can it be reached, is it who it should be, does it carry blocks, how far away is it.

On a fresh session, because that is what the next transfer needs: connect, TLS, both identities, a round trip on the
control connection; then a data connection joins, and a block goes there and comes back.
"""

from __future__ import annotations

import math
import os
import time

from dwcp.errors import IntegrityError, ProtocolError, UnreachableError
from dwcp.transfer.channel import Channel
from dwcp.transfer.node import Node
from dwcp.transfer.session import Dialled, confirm_stream, dial_session, dial_stream
from dwcp.wire import messages as m
from dwcp.wire.handshake import PROBE


def probe(node: Node, peer: str, patience: float = math.inf) -> float:
    """`look` at a configured peer."""
    address, expected = node.address_of(peer)
    return look(node, address, expected, patience)


def look(node: Node, address: str, expected: str, patience: float) -> float:
    """Seconds of a round trip to who listens at `address`, once all of the above went well. `patience`: seconds for
    each step. A peer that does not know of probes yet is looked at as far as the control connection goes.

    Raises a DwcpError.
    """
    session = dial_session(node, address, expected, patience)
    try:
        seconds = _round_trip(session, address)
        if PROBE in session.features:
            _block(node, address, session, patience)
        session.channel.send(m.Bye())
    finally:
        session.end()
        session.channel.link.close()
    return seconds


def _round_trip(session: Dialled, address: str) -> float:
    began = time.monotonic()
    session.channel.send(m.Ping(token=1))
    try:
        answer, _ = session.channel.receive()
        while isinstance(answer, m.Ping):
            # its own sign of life
            answer, _ = session.channel.receive()
    except EOFError as error:
        raise UnreachableError(f"{address} closed the connection instead of answering a PING") from error
    if not isinstance(answer, m.Pong):
        raise ProtocolError(f"{address} answers a PING with a {type(answer).__name__}")
    return time.monotonic() - began


def _block(node: Node, address: str, session: Dialled, patience: float) -> None:
    stream = dial_stream(node, address, session, 0, probe=True, patience=patience)
    try:
        confirm_stream(stream)
        block = os.urandom(m.PROBE_SIZE)
        stream.max_body = m.PROBE_SIZE
        stream.send(m.Probe(), block)
        answer, body = stream.receive()
    except EOFError as error:
        raise UnreachableError(f"{address} closed a data connection instead of answering a PROBE") from error
    finally:
        stream.link.close()
    if not isinstance(answer, m.Probe) or body != block:
        raise IntegrityError(f"{address} does not give back the block that it was sent")


def answer_probe(stream: Channel) -> None:
    """The responder's side, on a data connection that joined for it. Raises as the link does, or ProtocolError."""
    stream.send(m.Joined())
    stream.max_body = m.PROBE_SIZE
    message, body = stream.receive()
    if not isinstance(message, m.Probe):
        raise ProtocolError(f"a probe begins with a {type(message).__name__}")
    stream.send(m.Probe(), body)
