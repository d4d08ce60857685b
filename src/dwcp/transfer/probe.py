"""A cheap look at a peer: can it be reached, is it who it should be, how far away is it."""

from __future__ import annotations

from dwcp.config.model import BY_AUTHORITY
from dwcp.errors import NotFoundError, UsageError
from dwcp.transfer.node import Node
from dwcp.transfer.server import ping


def address_of(node: Node, peer: str) -> tuple[str, str]:
    """(address, fingerprint or `ca:NAME`) of a configured peer. Raises NotFoundError, or UsageError without address."""
    known = node.config.peers.get(peer)
    if known is None:
        names = ", ".join(sorted(node.config.peers)) or "none"
        raise NotFoundError(f"no peer {peer!r}; known peers: {names}; `dwcp peer add` adds one")
    if known.address is None:
        raise UsageError(f"peer {peer!r} has no address in the configuration: it can only connect to this node")
    expected = f"{BY_AUTHORITY}:{peer}" if known.fingerprint == BY_AUTHORITY else known.fingerprint
    return known.address, expected


def probe(node: Node, peer: str) -> float:
    """Seconds of a round trip to a configured peer, on a fresh and proved session. Raises a DwcpError."""
    address, fingerprint = address_of(node, peer)
    return ping(node, address, fingerprint)
