"""What an operator wants of a cluster, written into its registry; the nodes act on it when they look."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from dwcp.config import Config
from dwcp.errors import NotFoundError, UsageError
from dwcp.ownership.decide import Policy, why_not
from dwcp.registry.interface import Registry
from dwcp.workloads import ledger as led
from dwcp.workloads.owners import policy_of
from dwcp.workloads.shared import SharedRecord, check


class ClusterDesk:
    """All of it raises RegistryError too."""

    def __init__(
        self,
        config: Callable[[], Config],
        do: Callable[[Callable[[Registry], Awaitable[None]]], Awaitable[None]],
        ledger: Callable[[], led.Ledger],
        look_again: Callable[[], None],
    ) -> None:
        """`do`: awaits something with the registry; `ledger` is as this node saw it last."""
        self._config = config
        self._do = do
        self._ledger = ledger
        self._look_again = look_again

    async def move(self, workload: str, to: str) -> None:
        """Returns when that is agreed; it is done when what runs has ended. Raises NotFoundError,
        UsageError."""
        reason = why_not(self._ledger().facts, workload, self._policy(workload), to)
        if reason:
            raise UsageError(f"workload {workload!r} cannot be moved to {to!r}: {reason}")
        owner = self._ledger().facts.owners.get(workload)
        if owner is not None and owner.node == to:
            raise UsageError(f"workload {workload!r} is owned by {to!r} already")
        wanted = led.MoveRecord(to, time.time())
        await self._do(lambda registry: led.write(registry, led.MOVES + workload, wanted))
        self._look_again()

    async def stay(self, workload: str) -> None:
        """A move that has not been made is not wanted any more. Raises NotFoundError."""
        self._policy(workload)
        await self._do(lambda registry: led.remove(registry, led.MOVES + workload))
        self._look_again()

    async def share(self, name: str, record: SharedRecord) -> None:
        """Declares a workload for all nodes, in place of what was declared before. Raises UsageError."""
        check(name, record)
        await self._do(lambda registry: led.write(registry, led.SHARED + name, record))
        self._look_again()

    async def unshare(self, name: str) -> None:
        """Raises NotFoundError."""
        if name not in self._ledger().shared:
            known = ", ".join(sorted(self._ledger().shared)) or "none"
            raise NotFoundError(f"no workload {name!r} is declared for all nodes; there are: {known}")
        await self._do(lambda registry: led.remove(registry, led.SHARED + name))
        self._look_again()

    async def drain(self, node: str, *, drained: bool) -> None:
        """Whether a node should own nothing. Raises NotFoundError."""
        known = self._ledger().nodes.keys() | self._ledger().drained
        if node not in known:
            raise NotFoundError(f"no node {node!r} is there; there are: {', '.join(sorted(known)) or 'none'}")
        if drained:
            await self._do(lambda registry: led.write(registry, led.DRAINS + node, led.DrainRecord(time.time())))
        else:
            await self._do(lambda registry: led.remove(registry, led.DRAINS + node))
        self._look_again()

    def _policy(self, workload: str) -> Policy:
        """Raises NotFoundError, UsageError."""
        declared = self._config().workloads.get(workload)
        if declared is None:
            raise NotFoundError(f"no workload {workload!r} is declared on this node")
        if not declared.owners:
            raise UsageError(f"workload {workload!r} has no owners: each node runs what it declares")
        return policy_of(declared)
