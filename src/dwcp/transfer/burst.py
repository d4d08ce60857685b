"""A short burst to a peer: what the link to it carries now, for as few bytes as tell.

It goes over a fresh session as PINGs that carry a filling; each is answered when it has arrived, so the distances of
the answers show the rate, whatever the round trip is.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from dwcp.errors import ProtocolError, TemporaryError
from dwcp.forecast.sampling import PACED
from dwcp.links.sockopts import MODEL_BASED
from dwcp.transfer.channel import Channel
from dwcp.transfer.node import Node
from dwcp.transfer.session import dial_session
from dwcp.wire import messages as m

LEAST = 8
"""PINGs: under it there are no quarters to compare."""
GROWING = 1.25
"""The last quarter that much faster than the one before: windows were still opening."""
SHORTEST = 0.002
"""Seconds of a quarter: under it the machines' schedulers are measured, and not the link."""


@dataclass(frozen=True, slots=True)
class Burst:
    """`rate` in bits per second, of the last quarter; `limited`: the link may carry more. `size` in bytes sent."""

    rate: float
    limited: bool
    round_trip: float
    loss: float
    seconds: float
    size: int


def burst(node: Node, peer: str, size: int) -> Burst:
    """Sends about `size` bytes to a configured peer, which throws them away. Raises a DwcpError."""
    address, expected = node.address_of(peer)
    count = max(LEAST, round(size / m.MAX_FILL))
    # what a middlebox compresses would be measured as faster than it is
    filling = os.urandom(min(m.MAX_FILL, max(1, size // count)))
    session = dial_session(node, address, expected)
    channel, link = session.channel, session.channel.link
    node.watch(link, sends=True)
    try:
        began = time.monotonic()
        channel.send(m.Ping(token=1))
        _expect_pong(channel, address)
        round_trip = time.monotonic() - began
        before = link.delivery().resent
        began = time.monotonic()
        for token in range(2, count + 2):
            channel.send(m.Ping(token=token, fill=filling))
        arrived = []
        for _ in range(count):
            _expect_pong(channel, address)
            arrived.append(time.monotonic() - began)
        resent = link.delivery().resent - before
        channel.send(m.Bye())
    except EOFError as error:
        raise TemporaryError(f"{address} closed the connection instead of answering a PING") from error
    finally:
        node.unwatch(link)
        link.close()
    rate, growing = judge(arrived, len(filling))
    allowed = node.pacer.rate
    limited = growing or (allowed is not None and rate >= PACED * allowed)
    # a congestion control that answers to loss leaves a lossy link half empty with one stream
    limited = limited or (resent > 0 and node.config.transport.congestion_algorithm != MODEL_BASED)
    sent = count * len(filling)
    return Burst(rate, limited, round_trip, min(1.0, max(0, resent) / sent), arrived[-1], sent)


def judge(arrived: list[float], size: int) -> tuple[float, bool]:
    """(bits per second of the last quarter of the arrivals, whether the rate was still growing). `arrived`: seconds at
    which each piece of `size` bytes was answered, at least LEAST of them."""
    quarter = len(arrived) // 4
    last = arrived[-1] - arrived[-1 - quarter]
    before = arrived[-1 - quarter] - arrived[-1 - 2 * quarter]
    rate = quarter * size * 8 / max(last, SHORTEST)
    return rate, last < SHORTEST or before > GROWING * last


def _expect_pong(channel: Channel, address: str) -> None:
    answer, _ = channel.receive()
    if not isinstance(answer, m.Pong):
        raise ProtocolError(f"{address} answers a PING with a {type(answer).__name__}")
