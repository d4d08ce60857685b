"""What peers tell this node to send: from its exports only, to its peers only, and only for whom it has been allowed.

The node sends under its own name, and may do more at the target than whoever has ordered it; that is why the permission
(`peers.NAME.may_order`) has to be given.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from dwcp.config import Config
from dwcp.errors import NotFoundError, RefusedError
from dwcp.store.job import Job, NewJob, Settings
from dwcp.wire.messages import Order, Ordered
from dwcp.wire.paths import check_relative, display

PRIORITY = 5
"""As a workload has it that says nothing."""


class OrderDesk:
    """`transfer.node.Orders`."""

    def __init__(self, config: Callable[[], Config], add: Callable[[NewJob], Job], get: Callable[[int], Job]) -> None:
        """`add` and `get` of the queue, for any thread."""
        self._config = config
        self._add = add
        self._get = get

    def take(self, peer: str, order: Order) -> Ordered:
        """Raises RefusedError, NotFoundError, UsageError."""
        config = self._config()
        known = config.peers.get(peer)
        if known is None or not known.may_order:
            raise RefusedError(
                f"node {config.node.name!r} takes no orders from {peer!r}: peers.{peer}.may_order is not set there"
            )
        if order.peer not in config.peers:
            names = ", ".join(sorted(config.peers))
            raise NotFoundError(f"node {config.node.name!r} has no peer {order.peer!r}; it has: {names}")
        export, _, below = order.source.partition(b"/")
        if os.fsdecode(export) not in config.storage.exports:
            raise NotFoundError(f"node {config.node.name!r} has no export {display(export)}")
        check_relative(below)
        check_relative(order.target)
        settings = Settings(delete=order.delete, checksum=order.checksum, ordered_by=peer)
        source, target = os.fsdecode(order.source), os.fsdecode(order.target)
        return _answer(self._add(NewJob("", "send", order.peer, target, source, settings, PRIORITY)))

    def look(self, peer: str, job: int) -> Ordered:
        """Raises NotFoundError."""
        found = self._get(job)
        if found.settings.ordered_by != peer:
            raise NotFoundError(f"no job {job} was ordered by {peer!r}")
        return _answer(found)


def _answer(job: Job) -> Ordered:
    return Ordered(
        job=job.id,
        state=job.state,
        reason=job.reason[:1000],
        files=job.files,
        bytes=job.bytes,
        wire_bytes=job.wire_bytes,
    )
