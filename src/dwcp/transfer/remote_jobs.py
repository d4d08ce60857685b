"""Transfers between two other nodes, as the node that orders them sees them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dwcp.wire import messages as m
from dwcp.wire.handshake import ORDERS

if TYPE_CHECKING:
    from dwcp.transfer.client import Peer


@dataclass(frozen=True, slots=True)
class RemoteJob:
    """`state`: waiting, running, done, parked or cancelled; `reason`: why it waits, or was parked."""

    id: int
    state: str
    reason: str
    files: int
    bytes: int
    wire_bytes: int

    @property
    def ended(self) -> bool:
        """Nothing more comes of it without somebody's doing."""
        return self.state not in ("waiting", "running")


def place(peer: Peer, source: str, at: str, target: str, *, delete: bool, checksum: str) -> RemoteJob:
    """See `Peer.order`; blocks."""
    order = m.Order(source=os.fsencode(source), peer=at, target=os.fsencode(target), delete=delete, checksum=checksum)
    (answer,) = peer.request(order, m.Ordered, ORDERS)
    return _job(answer)


def look(peer: Peer, job: int) -> RemoteJob:
    """See `Peer.order_status`; blocks."""
    (answer,) = peer.request(m.OrderStatus(job=job), m.Ordered, ORDERS)
    return _job(answer)


def _job(answer: m.Ordered) -> RemoteJob:
    return RemoteJob(answer.job, answer.state, answer.reason, answer.files, answer.bytes, answer.wire_bytes)
