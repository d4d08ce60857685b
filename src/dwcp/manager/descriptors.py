"""The `descriptors` component: finds a leak of them before the first connection is refused for want of one."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping

from dwcp.manager.apart import Apart
from dwcp.profiling.descriptors import Descriptors, descriptors, uses
from dwcp.supervise.health import HEALTHY, Health, Status

BUDGET = 0.8
"""Share of what the process may have. Streams at their most (1024, two sockets each where they are TLS) and three
descriptors for each file in work are a tenth of the 65536 that a manager asks for."""
SPARE = 8
"""With fewer left, a connection that arrives may find none: it takes two, a check some more."""
NAMED = 3


class DescriptorsComponent:
    """Degraded when more than the budget are open, with what they are for; unhealthy when as good as none is left.

    Its restart collects garbage: sockets and files that nobody holds any more, but that hang together in a circle.
    """

    name = "descriptors"

    def __init__(
        self,
        ports: Callable[[], Mapping[int, str]],
        directories: Callable[[], Mapping[str, str]],
        read: Callable[[], Descriptors] = descriptors,
    ) -> None:
        """`ports`, `directories`: as of `uses`."""
        self._ports = ports
        self._directories = directories
        self._read = read
        self._work = Apart("dwcp-descriptors")

    async def start(self) -> None:
        await self._work.run(gc.collect)

    async def stop(self) -> None:
        """Nothing runs."""

    async def check(self) -> Health:
        found = self._read()
        if found.used < BUDGET * found.limit:
            return HEALTHY
        purposes = await self._work.run(lambda: uses(self._ports(), self._directories()))
        most = ", ".join(f"{count} {name}" for name, count in purposes.most_common(NAMED))
        text = f"{found.used} of {found.limit} descriptors are open ({most}); raise LimitNOFILE, or see what holds them"
        spent = found.limit - found.used < SPARE
        return Health(Status.UNHEALTHY, f"no descriptor is left: {text}") if spent else Health(Status.DEGRADED, text)
