"""A cheap look at a peer: can it be reached, is it who it should be, how far away is it."""

from __future__ import annotations

from dwcp.transfer.node import Node
from dwcp.transfer.server import ping


def probe(node: Node, peer: str) -> float:
    """Seconds of a round trip to a configured peer, on a fresh and proved session. Raises a DwcpError."""
    address, fingerprint = node.address_of(peer)
    return ping(node, address, fingerprint)
